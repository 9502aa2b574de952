"""What a benchmark counts on before it measures."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from benchmarks import arrivals


class WithoutLeaders:
    """A cluster that makes a topic, and never a leader for its partitions."""

    def __init__(self, *_properties: object, **_more: object) -> None:
        pass

    def create_topics(self, topics: list[object]) -> dict[str, Future[None]]:
        made: Future[None] = Future()
        made.set_result(None)
        return {topic.topic: made for topic in topics}  # type: ignore[attr-defined]

    def list_topics(self, topic: str, **_more: object) -> object:
        partitions = {number: SimpleNamespace(leader=-1 if number else 1) for number in range(arrivals.PARTITIONS)}
        return SimpleNamespace(topics={topic: SimpleNamespace(partitions=partitions)})


def test_a_topic_whose_partitions_get_no_leaders_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "AdminClient", WithoutLeaders)
    monkeypatch.setattr(arrivals, "METADATA_SECONDS", 0.2)
    with pytest.raises(TimeoutError, match=r"turn: 1 of 6 partitions have a leader after 0\.2 s"):
        arrivals.Topic("broker:9092", "turn")
