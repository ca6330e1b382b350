"""Lets schemathesis send the body of the batch stream."""

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def ndjson(_context, value):  # type: ignore[no-untyped-def]
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
