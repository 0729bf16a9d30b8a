"""Text files that a program and a person write together: the program's blocks stand between marks, the rest is theirs.

A block is

    <!-- pyro_vae: begin NAME 3f2a9c01 -->
    ...
    <!-- pyro_vae: end NAME -->

or, in the YAML at the top, the same behind `#`. The eight digits are those of what stands inside: where they are no
longer, somebody has changed it.
"""

import hashlib
import re
from collections.abc import Mapping

BLOCK = re.compile(
    r"^(?P<sign><!--|\#)\ pyro_vae:\ begin\ (?P<name>\w+)\ (?P<digest>[0-9a-f]{8})(?:\ -->)?\n"
    r"(?P<body>.*?)"
    r"^(?P=sign)\ pyro_vae:\ end\ (?P=name)(?:\ -->)?\n?",
    re.DOTALL | re.MULTILINE | re.VERBOSE,
)


def block(name: str, body: str, *, yaml: bool = False) -> str:
    """A block with its marks, which ends with a line feed.

    >>> print(block("numbers", "none yet"), end="")
    <!-- pyro_vae: begin numbers c346bc82 -->
    none yet
    <!-- pyro_vae: end numbers -->
    """
    inside = body if body.endswith("\n") or not body else f"{body}\n"
    sign, after = ("#", "") if yaml else ("<!--", " -->")
    begin = f"{sign} pyro_vae: begin {name} {_digest(inside)}{after}\n"
    return f"{begin}{inside}{sign} pyro_vae: end {name}{after}\n"


def has_blocks(text: str) -> bool:
    """Whether a program has written in a text."""
    return BLOCK.search(text) is not None


def updated(text: str, bodies: Mapping[str, str]) -> tuple[str, list[str]]:
    """A text whose blocks have other bodies, and the names of those that somebody has changed, which stay as they are.

    Blocks without a body here stay too, and a body without a block goes nowhere: somebody has removed it.
    """
    changed = []

    def replace(found: re.Match[str]) -> str:
        name = found["name"]
        if _digest(found["body"]) != found["digest"]:
            changed.append(name)
            return found[0]
        if name not in bodies:
            return found[0]
        return block(name, bodies[name], yaml=found["sign"] == "#")

    return BLOCK.sub(replace, text), changed


def emptied(text: str) -> str:
    """A text without what its blocks say, which keep their places; `''` where it says nothing else."""
    outside = BLOCK.sub("", text)
    if not outside.replace("---", "").strip():
        return ""
    names = {found["name"] for found in BLOCK.finditer(text)}
    return updated(text, dict.fromkeys(names, ""))[0]


def _digest(body: str) -> str:
    return hashlib.blake2b(body.encode(), digest_size=4).hexdigest()
