"""DataFrames as compressed JSON and back: column types, tuples and missing values come back as they were.

JSON and not pickle, because a results file is handed around, and reading it must never run anything.
"""

import json
import zlib
from typing import Any

import pandas as pd

_NATIVE = ("bool", "int64", "float64", "boolean", "Int64", "Float64", "string", "str", "object")


def table_to_bytes(table: pd.DataFrame) -> bytes:
    """The table without its index: rows are numbered from 0 again when it is read. Raises TypeError for a column type
    or a value that JSON can't hold."""
    columns = [_column(str(name), table[name]) for name in table.columns]
    return zlib.compress(json.dumps({"rows": len(table), "columns": columns}, separators=(",", ":")).encode(), 3)


def table_from_bytes(data: bytes) -> pd.DataFrame:
    content = json.loads(zlib.decompress(data))
    columns = {column["name"]: _series(column) for column in content["columns"]}
    return pd.DataFrame(columns, index=pd.RangeIndex(content["rows"]))


def _column(name: str, series: pd.Series) -> dict[str, Any]:
    dtype = str(series.dtype)
    if dtype not in _NATIVE:
        raise TypeError(f"column {name!r} has dtype {dtype}; a stored table knows {', '.join(_NATIVE)}.")
    column: dict[str, Any] = {"name": name, "dtype": dtype}
    if dtype == "object":
        values = series.tolist()
        column["na"] = [i for i, value in enumerate(values) if value is pd.NA]
        column["tuples"] = [i for i, value in enumerate(values) if isinstance(value, tuple)]
        if len(column["tuples"]) == len(values):
            column["tuples"] = "all"
        column["values"] = [None if value is pd.NA else value for value in values]
    elif dtype in ("bool", "int64", "float64"):
        column["values"] = series.tolist()
    elif dtype in ("string", "str"):
        codes, labels = pd.factorize(series)  # a few texts many times: the names of devices, classes, dtypes
        column["codes"], column["labels"] = codes.tolist(), labels.tolist()
    else:
        column["values"] = series.astype("object").where(series.notna(), None).tolist()
    return column


def _series(column: dict[str, Any]) -> pd.Series:
    dtype, values = column["dtype"], column.get("values", [])
    if dtype in ("string", "str"):
        labels = [*column["labels"], None]  # the code of a missing value is -1
        values = [labels[code] for code in column["codes"]]
        return pd.Series(values, dtype=dtype if dtype == "string" or _TEXT == "str" else "object")
    if dtype == "object":
        for i in range(len(values)) if column["tuples"] == "all" else column["tuples"]:
            values[i] = _tuple(values[i])
        for i in column["na"]:
            values[i] = pd.NA
    return pd.Series(values, dtype=dtype)


def _tuple(value: object) -> object:
    return tuple(_tuple(item) for item in value) if isinstance(value, list) else value


_TEXT = str(pd.Series(["text"]).dtype)  # "str" from pandas 3 on, "object" before
