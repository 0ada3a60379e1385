"""The doors between the rooms of the package, as docs/ARCHITECTURE.md draws them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import hf_contrastive


PACKAGE = Path(hf_contrastive.__file__).parent

# who may import whom; a room that is not named here has to be drawn into docs/ARCHITECTURE.md first
LEAVES = {"version", "utils", "registry"}
BASE = {"modeling_utils", "configuration_utils", "auto_registration", "outputs", "distributed", "tensor_utils"}
DOORS: dict[str, set[str]] = {
    "losses": {"distributed"},
    "modules": {"losses", "distributed", "tensor_utils"},
    "families": {"modules", "losses", "data", "vector_index", *BASE},
    "backbones": BASE,
    "models": {"families", "generation", "modules", "losses", "data", "backbones", *BASE},
    "data": {"distributed", "tensor_utils"},
    "evaluation": {"distributed", "tensor_utils"},
    "metrics": {"evaluation"},
    "generation": {"distributed", "outputs"},
    "reporting": {"evaluation"},
    "vector_index": {"hub", "tensor_utils"},
    # the gate through which checkpoints come and go: what `from_pretrained`, the trainer and the recipes all use
    "hub": {"modeling_utils"},
    "training": {"hub", "evaluation", "reporting", "modules", *BASE},
    # they know everything
    "recipes": {
        "data",
        "evaluation",
        "hub",
        "modules",
        "models",
        "families",
        "generation",
        "losses",
        "reporting",
        "training",
        *BASE,
    },
    "cli": {
        "data",
        "evaluation",
        "families",
        "hub",
        "generation",
        "models",
        "reporting",
        "training",
        "vector_index",
        *BASE,
    },
    "modeling_utils": {"configuration_utils", "hub", "modules"},
    "configuration_utils": {"auto_registration", "hub"},
}


def imports() -> list[tuple[str, str, str]]:
    """(file, room it stands in, module of the package that it imports), imports inside functions included."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module == "hf_contrastive":
                names = [f"hf_contrastive.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                assert node.level == 0, f"{path.relative_to(PACKAGE)}: relative imports break remote-code export"
                names = [node.module]
            found += [("/".join(parts), parts[0], name) for name in names if name.startswith("hf_contrastive.")]
    return found


def test_doors():
    wrong = []
    for file, room, name in imports():
        target = name.split(".")[1]
        if room == "__init__" or target in (room, *LEAVES):
            continue
        if target not in DOORS.get(room, set()):
            wrong.append(f"{file} imports {name}")
    assert not wrong, "not a door of docs/ARCHITECTURE.md: " + "; ".join(wrong)


def test_no_system_knows_another():
    wrong = []
    for file, room, name in imports():
        target = name.split(".")[1:]
        if room == "models" and target[0] == "models" and len(target) > 1 and target[1] != file.split("/")[1]:
            wrong.append(f"{file} imports {name}")
    assert not wrong, "move what two systems share down into families, modules or data: " + "; ".join(wrong)


@pytest.mark.parametrize("room", sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()))
def test_room_is_drawn(room):
    assert room in DOORS, f"hf_contrastive/{room} is not in docs/ARCHITECTURE.md; draw it and its doors first"
    plan = (PACKAGE.parent / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert f"{room}/" in plan, f"docs/ARCHITECTURE.md does not say what {room}/ is for"


def test_model_files_have_their_own_names():
    """Remote-code export copies files flat, so a name must not come twice."""
    names = [path.name for path in (PACKAGE / "models").rglob("*.py") if path.name != "__init__.py"]
    assert len(names) == len(set(names))
