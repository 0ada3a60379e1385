"""Rows of text and numbers written to a file while they are made."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hf_contrastive.cli.common import CliError, WrongUsage, replace_file


ENDINGS = (".jsonl", ".csv", ".parquet")


def check_rows_file(output: Path | None, overwrite: bool, example: str, option: str = "--output") -> None:
    """Refuse an output that rows cannot be written to, before any work is done.

    Args:
        output (`Path`, *optional*): as typed.
        overwrite (`bool`): whether a file that is there may be replaced.
        example (`str`): a name, for messages.
        option (`str`, defaults to `"--output"`): of the command.

    Raises:
        WrongUsage: another ending, or a folder.
        CliError: the file exists.
    """
    if output is None:
        return
    if output.suffix not in ENDINGS:
        raise WrongUsage(
            f"{option} is {str(output)!r}, which ends in {output.suffix or 'nothing'}; expected one of {', '.join(ENDINGS)}, for "
            f"example -o {output.with_suffix('.csv')}."
        )
    if output.is_dir():
        raise WrongUsage(f"{option} {output} is a folder; give a file, for example -o {output / example}.")
    if output.exists() and not overwrite:
        raise CliError(f"{output} exists; nothing was changed. Type --overwrite to replace it, or another -o.")


class RowsFile:
    """Rows to a file of one of the `ENDINGS`; it appears when all are written.

    Args:
        path (`Path`): the file; its folder is made when missing.
        types (`Mapping[str, str]`): columns in order, and the type of each in parquet, as pyarrow calls it.
    """

    def __init__(self, path: Path, types: Mapping[str, str]) -> None:
        self.path, self.lines = path, 0
        self.columns = list(types)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.temporary = path.with_name(path.name + ".tmp")
        if path.suffix == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            self.schema = pa.schema([(name, pa.type_for_alias(one)) for name, one in types.items()])
            self.file: Any = pq.ParquetWriter(self.temporary, self.schema)
        else:
            self.file = self.temporary.open("w", encoding="utf-8", newline="")
        if path.suffix == ".csv":
            csv.writer(self.file, lineterminator="\n").writerow(self.columns)

    def write(self, rows: Iterable[dict[str, Any]]) -> None:
        """Further rows, by column."""
        rows = list(rows)
        self.lines += len(rows)
        if self.path.suffix == ".parquet":
            import pyarrow as pa

            self.file.write_table(pa.Table.from_pylist(rows, schema=self.schema))
        elif self.path.suffix == ".csv":
            csv.DictWriter(self.file, self.columns, lineterminator="\n").writerows(rows)
        else:
            self.file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    def __enter__(self) -> RowsFile:
        return self

    def __exit__(self, *error: Any) -> None:
        self.file.close()
        if error[0] is None:
            replace_file(self.temporary, self.path)
        else:
            self.temporary.unlink()
