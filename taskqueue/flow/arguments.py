"""The arguments of steps, with the results that they refer to."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from taskqueue.errors import BadWorkflow
from taskqueue.flow.schema import Kind
from taskqueue.flow.store import Store
from taskqueue.workflows.document import reference_in, references
from taskqueue.workflows.stored import Stored
from taskqueue.workflows.wire import MOST_RESULT, MOST_STEPS, decode_value, encode_json

#: Maximum bytes of a step's arguments with all results in them.
MOST_PASSED: Final = 16 * 1024 * 1024
#: Maximum bytes of the arguments of all elements of a map.
MOST_SPREAD: Final = 64 * 1024 * 1024
_MOST_READ: Final = 20  # results that are read at once, of MOST_RESULT bytes each


class Arguments:
    """Puts results into arguments, inside a transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def resolved(self, workflow: int, name: str, args: str) -> str:
        """Return arguments as JSON text with the results that they refer to.

        Raises BadWorkflow if they are too large, or a result is not there to be passed on.
        """
        value = decode_value(args)
        counts = Counter(each for _, each in references(value))
        found = dict.fromkeys(counts, "null")
        size = len(args)
        for each, text in self._results(workflow, list(counts), name):
            found[each] = text
            size += counts[each] * len(text)
            _check_size(f"the arguments of step {name}", size, MOST_PASSED)
        text = encode_json(_replaced(value, {each: decode_value(text) for each, text in found.items()}))
        _check_size(f"the arguments of step {name}", len(text), MOST_PASSED)
        return text

    def result_of(self, workflow: int, name: str, asker: str = "") -> str:
        """Return the result of a step as JSON text, or the results of a map; null for one that has none.

        Raises BadWorkflow if it is too large, or is no JSON.
        """
        found = dict(self._results(workflow, [name], asker))
        return found.get(name, "null")

    def results_of(self, workflow: int, names: Iterable[str]) -> list[str]:
        """Return the results of several steps as JSON text.

        Raises BadWorkflow as `result_of` does, or if they are too large together.
        """
        names = list(names)
        texts: dict[str, str] = {}
        size = 0
        for name, text in self._results(workflow, names):
            texts[name] = text
            size += len(text)
            _check_size("the results", size, MOST_PASSED)
        return [texts.get(name, "null") for name in names]

    def _results(self, workflow: int, names: list[str], asker: str = "") -> Iterator[tuple[str, str]]:
        """Yield the names of steps and their results, which are read a few at a time: they may be large."""
        for start in range(0, len(names), _MOST_READ):
            rows = self._store.rows(
                "SELECT name, no, kind, result, size FROM step WHERE workflow = ? AND name IN ANY ?",
                (workflow, names[start : start + _MOST_READ]),
            )
            for name, no, kind, result, size in rows:
                if kind in (Kind.MAP, Kind.SPREAD):
                    yield name, self._results_of(no, name, asker)
                elif result is None and size is not None:
                    raise BadWorkflow([missing_result(name, size)])
                else:
                    yield name, "null" if result is None else str(result)

    def _results_of(self, no: int, name: str, asker: str) -> str:
        ((size,),) = self._store.rows("SELECT sum(length(result)) FROM step WHERE parent = ?", (no,))
        _check_size(
            f"the results of map {name}{f', for step {asker},' if asker else ''}", size or 0, MOST_PASSED
        )
        found = self._store.rows("SELECT result FROM step WHERE parent = ? ORDER BY position", (no,))
        return f"[{','.join('null' if text is None else text for (text,) in found)}]"

    def of_elements(self, workflow: int, row: Mapping[str, Any]) -> list[str]:
        """Return the arguments of a map's elements as JSON text.

        row -- of the map: name, form, args, refs and source
        Raises BadWorkflow if the result is no list, or too large.
        """
        name, source = row["name"], row["source"]
        elements = self._elements(workflow, source, name)
        rest = self.resolved(workflow, name, row["args"])[1:] if row["refs"] else row["args"][1:]
        texts: list[str] = []
        size = 0
        for text in elements:
            if row["form"] == "params":
                text = f"[{text}{']' if rest == ']' else f',{rest}'}"  # noqa: PLW2901
            size += len(text)
            _check_size(f"the arguments of all elements of map {name}", size, MOST_SPREAD)
            texts.append(text)
        return texts

    def _elements(self, workflow: int, source: str, name: str) -> Iterable[str]:
        """Return the elements of a map as JSON text; those of a list in a store as references."""
        text = self.result_of(workflow, source, name)
        stored = Stored.of_text(text)
        elements = decode_value(text)
        if stored is None and not isinstance(elements, list):
            kind = type(elements).__name__
            raise BadWorkflow([f"the result of step {source} is a {kind}; map {name} needs a list"])
        if stored is not None and stored.count is None:
            raise BadWorkflow([f"the result of step {source} is no list; map {name} needs a list"])
        count = len(elements) if stored is None else stored.count or 0
        if count > MOST_STEPS:
            raise BadWorkflow([f"map {name} has {count:,} elements; at most {MOST_STEPS:,} are kept"])
        if stored is not None:
            return [replace(stored, element=number).encode() for number in range(count)]
        return map(encode_json, elements)


def missing_result(name: str, size: int) -> str:
    """Return why the result of a step cannot be passed on.

    size -- its bytes
    """
    if size > MOST_RESULT:
        return (
            f"the result of step {name} has {size:,} bytes; at most {MOST_RESULT:,} are passed on. Set "
            "result_store in the configuration of its workers, or return a file's name"
        )
    return f"the result of step {name} is no JSON, and is not passed on"


def _check_size(what: str, size: int, most: int) -> None:
    if size > most:
        raise BadWorkflow([f"{what} have {size:,} bytes; at most {most:,} are passed on"])


def _replaced(value: Any, results: Mapping[str, Any]) -> Any:
    """Return a value with results in the place of references; its depth is bounded."""
    if reference := reference_in(value):
        return results[reference[1]]
    if isinstance(value, dict):
        return {key: _replaced(each, results) for key, each in value.items()}
    return [_replaced(each, results) for each in value] if isinstance(value, list) else value
