"""One loaded model: a bounded queue of requests, and one thread that answers what is waiting, a micro-batch at a time."""

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from radrecipes.data.example import Example
from radrecipes.errors import InputError, RadrecipesError
from radrecipes.inference.audit_log import AuditLog
from radrecipes.inference.prediction_stream import LONGEST_INPUT
from radrecipes.inference.predictors import Predictor
from radrecipes.serving.metrics import Metrics

LOGGER = logging.getLogger("radrecipes.serving")
# Micro-batches that may wait; a request that comes later is refused.
QUEUED_BATCHES = 8


class BusyError(RadrecipesError):
    """The queue is full, or the server is stopping."""


class UnansweredError(RadrecipesError):
    """The model failed, or the audit log could not be written, so that no answer may be given."""


class RefusedError(RadrecipesError):
    """The order at this place of a request cannot be answered."""

    def __init__(self, place: int, reason: str):
        super().__init__(reason)
        self.place = place


class Engine:
    """Answers requests in the order in which they come, each with all of its rows or none.

    The entries of a micro-batch are written to the audit log with one flush.

    Args:
        max_batch: Rows in a request, and in a micro-batch.
        batch_size: Rows that the model reads together. With 1 an answer does not depend on what others ask; more are faster under
            load, but rounding then depends on the other rows.
    """

    def __init__(
        self, predictor: Predictor, log: AuditLog | None, max_batch: int, metrics: Metrics, batch_size: int = 1
    ):
        self.predictor, self.log, self.max_batch, self.metrics = predictor, log, max_batch, metrics
        self.batch_size = batch_size
        self._jobs: deque[tuple[list[Example], Future]] = deque()
        self._waiting = 0  # rows
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        metrics.queue_rows.set_function(lambda: self._waiting)

    def start(self) -> None:
        """Answer the task's example, so that the first request is not slower and a model that cannot answer is found now."""
        task = self.predictor.task
        self.predictor.answer([task.read_input(task.words.example)], batch_size=1)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether requests are answered."""
        return self._thread.is_alive() and not self._stopping

    def stop(self) -> None:
        """Refuse new requests, answer those that were accepted, and end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()

    def read(self, order_id: str, text: str) -> Example:
        """An order as the model reads it; an [`InputError`] if it is too long or the task cannot read it."""
        if len(text) > LONGEST_INPUT:
            raise InputError(f"the text has more than {LONGEST_INPUT:,} characters; shorten it")
        if "\0" in text:
            raise InputError("the text contains a NUL character; remove it")
        return Example(order_id, "", self.predictor.task.read_input(text), "")

    def submit(self, orders: Sequence[Example]) -> "Future[list[dict[str, Any]]]":
        """Queue the orders of one request, at most `max_batch`; the result has a row of `predict.py`'s output for each.

        A [`BusyError`] if there is no room. The result can also be a [`RefusedError`] or an [`UnansweredError`].
        """
        done: Future = Future()
        with self._changed:
            if self._stopping or self._waiting + len(orders) > QUEUED_BATCHES * self.max_batch:
                raise BusyError("the server is stopping" if self._stopping else "too many requests are waiting")
            self._jobs.append((list(orders), done))
            self._waiting += len(orders)
            self._changed.notify()
        return done

    def _work(self) -> None:
        while jobs := self._take():
            # A client that gave up before its turn is left out; afterwards it can no longer cancel.
            self._answer([job for job in jobs if job[1].set_running_or_notify_cancel()])

    def _take(self) -> list[tuple[list[Example], Future]]:
        """What is waiting, as far as it fits into a micro-batch; nothing at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._stopping)
            taken, rows = [], 0
            while self._jobs and rows + len(self._jobs[0][0]) <= self.max_batch:
                taken.append(self._jobs.popleft())
                rows += len(taken[-1][0])
            self._waiting -= rows
            return taken

    def _answer(self, jobs: Sequence[tuple[list[Example], Future]]) -> None:
        answered, answers = [], []
        for together in [[job] for job in jobs] if self.batch_size == 1 else [jobs]:
            with self._failing("the model failed", together):
                together = [job for job in together if not self._refused(*job)]
                answers += self._answers([order.inputs for orders, _ in together for order in orders])
                answered += together
        if not answered:
            return
        examples = [order for orders, _ in answered for order in orders]
        with self._failing("the audit log cannot be written", answered):
            table = self.predictor.answers_table(examples, answers, keep_input=False)
            if self.log:  # first, so that no answer is given that is not in the log
                self.log.append_new(self.log.entries(examples, table, self.predictor))
            rows = table.to_pylist()
            self.metrics.count_batch(rows)
            rows.reverse()
            for orders, done in answered:
                done.set_result([rows.pop() for _ in orders])

    @contextlib.contextmanager
    def _failing(self, what: str, jobs: Sequence[tuple[list[Example], Future]]) -> Iterator[None]:
        """Tell the requests without an answer that something failed; the next one may succeed, for example with a shorter text."""
        try:
            yield
        except BaseException as error:  # also a panic of a tokenizer
            LOGGER.error("%s: %s", what, type(error).__name__)
            for _, done in jobs:
                if not done.done():
                    done.set_exception(UnansweredError(what))

    def _refused(self, orders: Sequence[Example], done: Future) -> bool:
        """Whether an order cannot be answered, which the request is told."""
        reasons = self.predictor.refusals([order.inputs for order in orders])
        place = next((place for place, reason in enumerate(reasons) if reason), None)
        if place is not None:
            done.set_exception(RefusedError(place, reasons[place]))
        return place is not None

    def _answers(self, inputs: Sequence[dict[str, str]]) -> list[Any]:
        if self.batch_size > 1:
            return self.predictor.answer(inputs, self.batch_size)
        return [self.predictor.answer([alone], batch_size=1)[0] for alone in inputs]
