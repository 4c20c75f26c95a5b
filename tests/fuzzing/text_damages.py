"""Damage JSON: values of other types, keys that lack or stand twice, depth without end."""

import json

import numpy as np

from tests.fuzzing.tensor_damages import CANARY

_CONFUSING = (
    None,
    True,
    -1,
    0,
    1.5,
    "a text",
    "",
    [],
    {},
    [[]],
    {"a": {"b": 1}},
    float("nan"),
    float("-inf"),
    10**30,
    "\0\n\u2028",
    "9" * 5000,
)


def _key_paths(value, key_path=()):
    yield key_path
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, inner in entries:
        yield from _key_paths(inner, (*key_path, key))


def _holder(value, key_path):
    for key in key_path[:-1]:
        value = value[key]
    return value


def confuse_types(content, rng):
    """Put a value of another kind in the place of any one, the whole among them."""
    value = json.loads(content)
    key_paths = list(_key_paths(value))
    key_path = key_paths[int(rng.integers(len(key_paths)))]
    other = _CONFUSING[int(rng.integers(len(_CONFUSING)))]
    if not key_path:
        return json.dumps(other).encode()
    _holder(value, key_path)[key_path[-1]] = other
    return json.dumps(value).encode()


def leave_out(content, rng):
    """Leave a key or an entry out."""
    value = json.loads(content)
    key_paths = [key_path for key_path in _key_paths(value) if key_path]
    key_path = key_paths[int(rng.integers(len(key_paths)))]
    del _holder(value, key_path)[key_path[-1]]
    return json.dumps(value).encode()


def nest_deeply(content, rng):
    """Nest lists or objects beyond what a parser can follow."""
    depth = int(rng.choice([900, 100_000]))
    if rng.random() < 0.5:
        return b"[" * depth + b"]" * depth
    return b'{"a":' * depth + b"1" + b"}" * depth


def spoil_text(content, rng):
    """Write bytes that are no UTF-8, another encoding, a number of 10,000 digits, or half a key."""
    choice = int(rng.integers(4))
    if choice == 0:
        return content.replace(b'"', b'"\xff\xfe', 1)
    if choice == 1:
        return content.decode().encode("utf-16")
    if choice == 2:
        return b'{"n_steps": ' + b"9" * 10_000 + b"}"
    return content.rstrip()[:-1] + b', "x'


def hide_code(content, rng):
    """Write what a reader of Python objects would take for a call."""
    call = {"py/reduce": [{"py/function": "builtins.open"}, {"py/tuple": [CANARY, "w"]}]}
    kind = {"py/type": "subprocess.Popen"}
    other = {"py/reduce": [kind, {"py/tuple": [["touch", CANARY]]}]}
    value = json.loads(content)
    trap = [call, other, {"py/object": "pathlib.Path"}, {"py/repr": f"open('{CANARY}', 'w')"}][
        int(rng.integers(4))
    ]
    value = {**value, "n_steps": trap} if rng.random() < 0.5 else trap
    return json.dumps(value).encode()


TEXTS = {
    "another type": confuse_types,
    "type again": confuse_types,
    "left out": leave_out,
    "depth": nest_deeply,
    "text": spoil_text,
    "code": hide_code,
}


def digest_of(array):
    """Describe an array so that any difference shows."""
    import hashlib

    array = np.ascontiguousarray(array)
    return f"{array.dtype}{array.shape}{hashlib.sha256(array.tobytes()).hexdigest()[:16]}"
