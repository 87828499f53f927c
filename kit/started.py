"""What is started as a whole or not at all, and closed in any case."""

from __future__ import annotations

import abc
from typing import Self


class Started(abc.ABC):
    """A context manager: started inside, closed outside, and also when it could be started in part only."""

    @abc.abstractmethod
    def start(self) -> object:
        """All of it. When it raises, some of it may be there."""

    @abc.abstractmethod
    def close(self) -> None:
        """End all of it; what is not there is no error."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
