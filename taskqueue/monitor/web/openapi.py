"""The OpenAPI document (https://spec.openapis.org/oas/v3.1.0), of the routes and the record's types."""

import re
import types
import typing
from dataclasses import fields
from functools import cache
from importlib.metadata import version
from typing import Any, Final

from taskqueue.messages.events import Emitter
from taskqueue.monitor.record import (
    Action,
    EmitterRow,
    Gap,
    LogEntry,
    Minute,
    Run,
    TimeSum,
    TypeRow,
    Workitem,
)
from taskqueue.monitor.web import api, pools, schedules, workflows
from taskqueue.monitor.web.api import Route
from taskqueue.monitor.web.grouping import LetterGroup
from taskqueue.monitor.web.parameters import FILTER, LONGEST_TEXT, MOST_IDS, Parameter
from taskqueue.monitor.web.rights import OPERATOR, ROLES, VIEWER
from taskqueue.monitor.web.schedules import ScheduleRow
from taskqueue.monitor.web.workflows import StepRow, WorkflowRow
from taskqueue.schedules.definition import Definition
from taskqueue.workflows.wire import CANCEL, LIST, SHOW

Json = dict[str, Any]

_KINDS: Final[dict[Any, Json]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    bytes: {"type": "string", "contentEncoding": "base64"},
}


@cache
def document() -> Json:
    """Return the document."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "taskqueue monitor", "version": version("taskqueue")},
        "security": [{"basic": []}, {"bearer": []}],
        "paths": _paths(),
        "components": {
            "schemas": _schemas() | _workflow_schemas(),
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


# --- paths ---


def _paths() -> Json:
    paths: Json = {api.PREFIX + route.path: {"get": _operation(route)} for route in api.ROUTES}
    paths[api.PREFIX + api.ACTION_PATH] = {"post": _action()}
    paths |= _schedule_paths() | _pool_paths() | _workflow_paths()
    paths[f"{api.PREFIX}/openapi.json"] = {"get": _simple("openapi", "This document.", "application/json")}
    paths["/metrics"] = {"get": _simple("metrics", "Metrics for Prometheus.", "text/plain")}
    health = _simple("health", "Whether the record can be read.", "application/json") | {"security": []}
    paths["/healthz"] = {"get": health}
    return paths


def _operation(route: Route) -> Json:
    return _described(route.name, route.summary, route.role, route.schema) | {
        "parameters": [_parameter(each) for each in route.parameters] + _path_parameters(route.path)
    }


def _described(name: str, summary: str, role: str, schema: str) -> Json:
    """Return an operation without its parameters; schema -- the name of that of its answer."""
    return {
        "operationId": name,
        "summary": summary,
        "description": f"Needs the role {role}.",
        "responses": _responses({"application/json": {"schema": _ref(schema)}}),
    }


def _schedule_paths() -> Json:
    def operation(name: str, summary: str, verb: str, schema: str, path: str, *given: Parameter) -> Json:
        parts = _path_parameters(path)
        if path == schedules.OPERATION_PATH:
            parts[-1]["schema"]["enum"] = list(schedules.OPERATIONS)
        parameters = {"parameters": [_parameter(each) for each in given] + parts}
        return _described(name, summary, schedules.ROLE_OF[verb], schema) | parameters

    whole, one, following = schedules.PATH, schedules.ONE_PATH, schedules.NEXT_PATH
    listed = operation(
        "schedules",
        "Schedules by name.",
        schedules.LIST,
        "Schedules",
        whole,
        schedules.TEXT,
        schedules.AFTER,
        schedules.LIMIT,
    )
    added = operation("add_schedule", "Add a schedule.", schedules.ADD, "Schedule", whole)
    added["requestBody"] = {"required": True, "content": {"application/json": {"schema": _ref("Definition")}}}
    shown = operation("schedule", "A schedule.", schedules.SHOW, "Schedule", one)
    removed = operation(
        "remove_schedule", "Remove a schedule.", schedules.REMOVE, "Schedule", one, schedules.FORCE
    )
    times = operation(
        "next", "When a schedule is due next.", schedules.SHOW, "NextTimes", following, schedules.NUMBER
    )
    summary = "Pause or resume a schedule, or run it now: `workitem` is then the id."
    operated = operation("operate", summary, schedules.PAUSE, "Operated", schedules.OPERATION_PATH)
    paths = {
        whole: {"get": listed, "post": added},
        one: {"get": shown, "delete": removed},
        following: {"get": times},
        schedules.OPERATION_PATH: {"post": operated},
    }
    return {api.PREFIX + path: operations for path, operations in paths.items()}


def _pool_paths() -> Json:
    shown = _described("pools", "What the pools of all hosts do, and the standing commands.", VIEWER, "Pools")
    given = _described("command", "Give pools a command; the answer is what they do then.", OPERATOR, "Pools")
    given["parameters"] = _path_parameters(pools.COMMAND_PATH)
    given["parameters"][0]["schema"]["enum"] = list(pools.COMMANDS)
    kinds = {"workers": _of_hint(int | None), "keep": _KINDS[bool], "for": {"type": ["string", "number"]}}
    bodies = []
    for command, (needed, others) in pools.MEMBERS.items():
        members = {name: kinds.get(name, _KINDS[str]) for name in (*needed, *others)}
        bodies.append(_object(members) | {"title": command, "required": list(needed)})
    content = {"application/json": {"schema": {"anyOf": bodies}}}
    given["requestBody"] = {"required": True, "content": content}
    return {api.PREFIX + pools.PATH: {"get": shown}, api.PREFIX + pools.COMMAND_PATH: {"post": given}}


def _workflow_paths() -> Json:
    def operation(name: str, summary: str, verb: str, schema: str, path: str, *given: Parameter) -> Json:
        parts = {part["name"]: part for part in _path_parameters(path)}
        if "operation" in parts:
            parts["operation"]["schema"]["enum"] = list(workflows.OPERATIONS)
        parameters = {"parameters": [*map(_parameter, given), *parts.values()]}
        return _described(name, summary, workflows.ROLE_OF[verb], schema) | parameters

    whole, one, operations = workflows.PATH, workflows.ONE_PATH, workflows.OPERATION_PATH
    known = (workflows.OPEN, workflows.BEFORE, workflows.LIMIT)
    listed = operation("workflows", "Workflows, the newest first.", LIST, "Workflows", whole, *known)
    summary = "A workflow with its first steps; of a map, the elements are counted."
    shown = operation("workflow", summary, SHOW, "Workflow", one)
    summary = "Cancel a workflow, or run again what has failed: `again` is then the number of steps."
    operated = operation("operate_workflow", summary, CANCEL, "OperatedWorkflow", operations)
    paths = {whole: {"get": listed}, one: {"get": shown}, operations: {"post": operated}}
    return {api.PREFIX + path: methods for path, methods in paths.items()}


def _parameter(each: Parameter) -> Json:
    schema: Json = dict(each.schema)
    if each.many:
        schema = {"type": "array", "items": schema}
    return {"name": each.name, "in": "query", "description": each.description, "schema": schema}


def _path_parameters(path: str) -> list[Json]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", path)
    ]


def _action() -> Json:
    words = {"type": "array", "items": {"type": "string", "maxLength": LONGEST_TEXT}, "maxItems": MOST_IDS}
    wanted = {
        "type": "object",
        "properties": {each.name: _in_json(each) for each in FILTER},
        "additionalProperties": False,
    }
    body = {
        "type": "object",
        "properties": {
            "ids": words,
            "tenant": {"type": "string", "description": "Whose the ids are."},
            "filter": wanted,
            "dry_run": {"type": "boolean", "default": False},
        },
        "oneOf": [{"required": ["ids"]}, {"required": ["filter"]}],
        "additionalProperties": False,
    }
    (part,) = _path_parameters(api.ACTION_PATH)
    part["schema"]["enum"] = list(api.ACTIONS)
    return {
        "operationId": "act",
        "summary": "Retry, cancel or purge workitems; with dry_run, count them.",
        "description": f"Needs the role {api.ACTION_ROLE}.",
        "parameters": [part],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": _responses({"application/json": {"schema": _ref("Acted")}}),
    }


def _in_json(each: Parameter) -> Json:
    one = dict(each.schema)
    return {"anyOf": [one, {"type": "array", "items": one}]} if each.many else one


def _simple(name: str, summary: str, kind: str) -> Json:
    return {"operationId": name, "summary": summary, "responses": _responses({kind: {}})}


def _responses(content: Json) -> Json:
    error = {"description": "An error.", "content": {"application/json": {"schema": _ref("Error")}}}
    return {"200": {"description": "The answer.", "content": content}, "default": error}


# --- schemas ---


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _schemas() -> Json:
    rows = (
        Workitem,
        Run,
        LogEntry,
        TypeRow,
        EmitterRow,
        Minute,
        Gap,
        Action,
        LetterGroup,
        TimeSum,
    )
    schemas: Json = {kind.__name__: _of_class(kind) for kind in rows}
    schemas["Emitter"] = _object(
        {name: _KINDS[hint] for name, hint in typing.get_type_hints(Emitter).items()} | {"name": _KINDS[str]}
    )
    schemas["Details"] = _details(schemas["Workitem"])
    text, whole = _KINDS[str], _KINDS[int]
    page = {"anyOf": [text, {"type": "null"}]}
    lists = {
        "Workitems": ({"workitems": _list("Workitem"), "next": page}),
        "Count": {"count": whole},
        "Log": {"log": _list("LogEntry"), "next": whole},
        "Types": {"types": _list("TypeRow")},
        "Overview": {
            "attention": {"type": "array", "items": _object({"type": text, "text": text})},
            "sums": _list("TimeSum"),
        },
        "DeadLetters": {"groups": _list("LetterGroup"), "count": whole, "is_more": _KINDS[bool]},
        "Processes": {"processes": _list("EmitterRow")},
        "Minutes": {"minutes": _list("Minute")},
        "Gaps": {"gaps": _list("Gap")},
        "Audit": {"audit": _list("Action")},
        "Status": {"user": text, "role": text | {"enum": list(ROLES)}, "began_at": _of_hint(float | None)},
        "Acted": {"action": text, "count": whole, "dry_run": _KINDS[bool]},
        "Error": {"error": _object({"status": whole, "message": text})},
    }
    schemas |= {name: _object(properties) for name, properties in lists.items()}
    return schemas | _schedule_schemas() | {"Pools": _pools()}


def _schedule_schemas() -> Json:
    row, text_or_null = _ref("ScheduleRow"), _of_hint(str | None)
    answers = {
        "Schedules": {"schedules": _list("ScheduleRow"), "next": text_or_null},
        "Schedule": {"schedule": row},
        "Operated": {"schedule": row, "workitem": text_or_null},
        "NextTimes": {"next": {"type": "array", "items": _KINDS[float]}},
    }
    definition = _of_class(Definition) | {"required": ["name", "worker_type"]}
    schemas = {name: _object(properties) for name, properties in answers.items()}
    return schemas | {"ScheduleRow": _of_class(ScheduleRow), "Definition": definition}


def _pools() -> Json:
    thing: Json = {"type": "object"}
    texts = {"type": "array", "items": _KINDS[str]}
    pool = {
        "host": _KINDS[str],
        "groups": {"type": "array", "items": thing},
        "orders": {"anyOf": [thing, {"type": "null"}]},
        "faults": texts,
        "roll": {"anyOf": [thing, {"type": "null"}]},
    }
    standing = dict.fromkeys(("paused", "drained", "sizes", "errors"), thing)
    lists = {"pools": {"type": "array", "items": _object(pool)}, "silent": texts, "complaints": texts}
    return _object({"command": _KINDS[str], **lists, **standing})


def _workflow_schemas() -> Json:
    row, whole = _ref("WorkflowRow"), _KINDS[int]
    left_out = {"steps_left_out": whole, "edges_left_out": whole}
    answers = {
        "Workflows": {"workflows": _list("WorkflowRow"), "next": _of_hint(str | None)},
        "Workflow": {"workflow": row, "steps": _list("StepRow"), **left_out},
        "OperatedWorkflow": {"workflow": row, "again": _of_hint(int | None)},
    }
    schemas = {name: _object(properties) for name, properties in answers.items()}
    return schemas | {kind.__name__: _of_class(kind) for kind in (WorkflowRow, StepRow)}


def _details(workitem: Json) -> Json:
    number, text = _KINDS[float], _KINDS[str]
    moment = _object({"at": number, "what": text, "text": text})
    progress = _object({"fraction": number, "text": text})
    result = _object({"content_type": text, "size": _KINDS[int], "base64": _KINDS[bytes]})
    return _object(
        workitem["properties"]
        | {
            "progress": {"anyOf": [progress, {"type": "null"}]},
            "runs": _list("Run"),
            "time_line": {"type": "array", "items": moment},
            "result": {"anyOf": [result, {"type": "null"}]},
        }
    )


def _list(name: str) -> Json:
    return {"type": "array", "items": _ref(name)}


def _object(properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _of_class(kind: Any) -> Json:
    hints = typing.get_type_hints(kind)
    return _object({each.name: _of_hint(hints[each.name]) for each in fields(kind)})


def _of_hint(hint: Any) -> Json:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        kinds = [_of_hint(each) for each in inner if each is not type(None)]
        return {"anyOf": [*kinds, {"type": "null"}]}
    if origin is tuple:
        return {"type": "array", "items": _of_hint(inner[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _of_hint(inner[1])}
    return dict(_KINDS[hint]) if hint in _KINDS else _ref(str(hint.__name__))
