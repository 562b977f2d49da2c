"""Messages between processes: JSON objects, one a line."""

import asyncio
import json
from typing import Any

LONGEST = 64 << 20
"""Bytes of the longest message. Histories and configs take kilobytes."""


def encode(message: dict[str, Any]) -> bytes:
    """Returns a message as a line."""
    return json.dumps(message).encode() + b"\n"


async def read(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """Returns the next message; None at the end, or if what comes is no message."""
    try:
        message = json.loads(await reader.readline())
        return message if isinstance(message, dict) else None
    except (OSError, ValueError):  # A reset connection, no JSON, or too long a line.
        return None
