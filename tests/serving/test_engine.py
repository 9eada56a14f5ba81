"""The model's thread: whatever goes wrong in it, every request gets an answer, and the next one is served."""

import pytest

from radrecipes.data.example import Example
from radrecipes.serving.engine import Engine, UnansweredError
from radrecipes.serving.metrics import Metrics


class Panic(BaseException):
    """As a tokenizer that is not written in Python raises it."""


class Failing:
    """A predictor whose methods raise what is set."""

    error = None

    def refusals(self, inputs):
        if self.error:
            raise self.error
        return ["too long"] * len(inputs)


@pytest.mark.parametrize("error", [MemoryError(), Panic()])
def test_an_exception_before_the_answer_ends_neither_the_thread_nor_the_wait(error):
    predictor = Failing()
    engine = Engine(predictor, None, 4, Metrics())
    engine._thread.start()
    predictor.error = error
    with pytest.raises(UnansweredError, match="the model failed"):
        engine.submit([Example("1", "", {}, "")]).result(timeout=5)
    predictor.error = None
    assert engine.alive and "too long" in str(engine.submit([Example("2", "", {}, "")]).exception(timeout=5))
    engine.stop()
