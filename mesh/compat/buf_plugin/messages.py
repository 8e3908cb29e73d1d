"""The messages between buf and its plugins, as far as they are used here.

Neither has a package for Python. They are declared in a pool of their own, under their own names,
which stand in the `Any` that each request and answer is wrapped in.
"""

from __future__ import annotations

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

CHECK = "buf.plugin.check.v1"
_DESCRIPTOR = "buf.plugin.descriptor.v1"
_RPC = "pluginrpc.v1"
_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "string": _Field.TYPE_STRING,
    "bool": _Field.TYPE_BOOL,
    "int32": _Field.TYPE_INT32,
}

# Fields by name: number and type; `*` is repeated. Enums are their numbers.
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    f"{_RPC}.Procedure": {"path": (1, "string")},
    f"{_RPC}.Spec": {"procedures": (1, f"*{_RPC}.Procedure")},
    f"{_RPC}.Request": {"value": (1, "google.protobuf.Any")},
    f"{_RPC}.Error": {"code": (1, "int32"), "message": (2, "string")},
    f"{_RPC}.Response": {"value": (1, "google.protobuf.Any"), "error": (2, f"{_RPC}.Error")},
    f"{_DESCRIPTOR}.FileDescriptor": {
        "file_descriptor_proto": (1, "google.protobuf.FileDescriptorProto"),
    },
    f"{_DESCRIPTOR}.FileLocation": {"file_name": (1, "string"), "source_path": (2, "*int32")},
    f"{CHECK}.CheckRequest": {
        "file_descriptors": (1, f"*{_DESCRIPTOR}.FileDescriptor"),
        "against_file_descriptors": (2, f"*{_DESCRIPTOR}.FileDescriptor"),
        "rule_ids": (4, "*string"),
    },
    f"{CHECK}.Annotation": {
        "rule_id": (1, "string"),
        "message": (2, "string"),
        "file_location": (3, f"{_DESCRIPTOR}.FileLocation"),
        "against_file_location": (4, f"{_DESCRIPTOR}.FileLocation"),
    },
    f"{CHECK}.CheckResponse": {"annotations": (1, f"*{CHECK}.Annotation")},
    f"{CHECK}.Rule": {
        "id": (1, "string"),
        "category_ids": (2, "*string"),
        "default": (3, "bool"),
        "purpose": (4, "string"),
        "type": (5, "int32"),
    },
    f"{CHECK}.ListRulesRequest": {"page_token": (2, "string")},
    f"{CHECK}.ListRulesResponse": {"rules": (2, f"*{CHECK}.Rule")},
    f"{CHECK}.Category": {"id": (1, "string"), "purpose": (2, "string")},
    f"{CHECK}.ListCategoriesRequest": {"page_token": (2, "string")},
    f"{CHECK}.ListCategoriesResponse": {"categories": (2, f"*{CHECK}.Category")},
}


def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    common = (any_pb2.DESCRIPTOR, descriptor_pb2.DESCRIPTOR)
    for known in common:
        pool.AddSerializedFile(known.serialized_pb)
    files: dict[str, descriptor_pb2.FileDescriptorProto] = {}
    for name, fields in _MESSAGES.items():
        package, _, short = name.rpartition(".")
        if package not in files:
            before = [*(known.name for known in common), *(file.name for file in files.values())]
            files[package] = descriptor_pb2.FileDescriptorProto(
                name=f"{package}.proto", package=package, syntax="proto3", dependency=before
            )
        message = files[package].message_type.add(name=short)
        for field, (number, kind) in fields.items():
            one = kind.lstrip("*")
            message.field.add(
                name=field,
                number=number,
                label=_Field.LABEL_REPEATED if kind.startswith("*") else _Field.LABEL_OPTIONAL,
                type=_SCALARS.get(one, _Field.TYPE_MESSAGE),
                type_name=None if one in _SCALARS else f".{one}",
            )
    for file in files.values():
        pool.Add(file)
    return pool


POOL = _pool()


def new(name: str) -> Message:
    """An empty message of that full name. Raises KeyError if there is none."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(name))()
