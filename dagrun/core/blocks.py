"""Context managers that switch something in the calling thread, and decorate functions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Generator
from contextlib import ContextDecorator
from functools import wraps
from inspect import isgeneratorfunction
from typing import Any


class Block(ContextDecorator):
    """A context manager that decorates functions and generator functions: it holds while their code runs."""

    @abstractmethod
    def _recreate_cm(self) -> Block:
        """A context of its own for each call of a decorated function, in whatever thread."""

    @abstractmethod
    def __enter__(self) -> None: ...

    @abstractmethod
    def __exit__(self, *failure: Any) -> None: ...

    def __call__(self, function: Callable[..., Any]) -> Any:
        return self._generator(function) if isgeneratorfunction(function) else super().__call__(function)

    def _generator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Enters when the generator goes on and leaves when it yields: who iterates has the mode that was set there."""

        def resumed(step: Callable[..., Any], *given: Any) -> Any:
            with self._recreate_cm():
                return step(*given)

        @wraps(function)
        def call(*arguments: Any, **options: Any) -> Generator[Any, Any, Any]:
            generator = function(*arguments, **options)
            try:
                value = resumed(next, generator)
                while True:
                    try:
                        sent = yield value
                    except GeneratorExit:
                        resumed(generator.close)
                        raise
                    except BaseException as error:
                        value = resumed(generator.throw, error)
                    else:
                        value = resumed(generator.send, sent)
            except StopIteration as end:
                return end.value

        return call
