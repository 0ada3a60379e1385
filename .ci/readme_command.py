"""Prints the command that stands in the README under a name: `python3 .ci/readme_command.py tests`."""

import pathlib
import re
import sys


readme = pathlib.Path(__file__).resolve().parent.parent / "README.md"
name = sys.argv[1]
found = re.search(
    rf"<!-- command: {re.escape(name)} -->\n+```bash\n(.*?)```", readme.read_text(encoding="utf-8"), re.S
)
if not found:
    sys.exit(f"README.md has no block after '<!-- command: {name} -->'")
print(found.group(1))
