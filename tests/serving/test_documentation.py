"""The page of a server: what it says is what the OpenAPI document says."""

import re

import pyarrow as pa

from radrecipes.serving.app import Order, Orders
from radrecipes.serving.documentation import openapi, page


def test_each_row_of_the_table_of_errors_is_a_status_with_its_meaning():
    document = openapi(Order, Orders, pa.schema([("label", pa.string())]), 32, labels=True)
    table = page(document).partition("<h2>Errors</h2>")[2].partition("</table>")[0]
    rows = re.findall("<td>(.*?)</td><td>(.*?)</td>", table)
    assert all(re.fullmatch(r"4\d\d|503", status) for status, _ in rows) and len(rows) == 10
    (described,) = {
        methods["post"]["responses"]["default"]["description"]
        for methods in document["paths"].values()
        if "post" in methods
    }
    assert described == ", ".join(map(" ".join, rows))
