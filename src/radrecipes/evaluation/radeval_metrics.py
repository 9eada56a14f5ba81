"""Model-based report metrics (RadGraph, CheXbert, …) from the optional package `radeval`."""

from collections.abc import Sequence

from radrecipes.errors import InputError

# Written against the source of radeval 2.2.1. These metrics send the texts to a third party.
_REMOTE_METRICS = ("crimson", "radfact_ct", "mammo_green")


class RadEvalMetrics:
    """Corpus metrics of RadEval (Xu et al., 2025), such as `radgraph` and `f1chexbert`.

    The models come from the Hub and are cached in `HF_HOME` and in `chexbert` and `radgraph` of the user's cache folder. Without
    network access, copy these folders from a machine that has run the metric once. Metrics that call a remote service are
    refused, and a metric whose model cannot be loaded is an [`InputError`].
    """

    def __init__(self, names: Sequence[str]):
        try:
            from radeval import RadEval
        except ImportError as error:
            raise InputError(
                f"radeval cannot be imported ({_line(error)}); pip install 'radrecipes[radeval]'", "--judges"
            ) from error
        self._metrics = []
        for name in names:
            if name in _REMOTE_METRICS:
                raise InputError(f"metric {name} sends reports to a remote service; choose another", "--judges")
            try:
                self._metrics.append(RadEval(metrics=[name], show_progress=False))
            except ValueError as error:
                raise InputError(_line(error), "--judges") from error
            # RadGraph wraps a failed download in a bare Exception; the others raise whatever their libraries raise.
            except Exception as error:
                raise InputError(
                    f"metric {name} cannot be loaded ({_line(error)}); its model must be in HF_HOME or, for f1chexbert and "
                    "radgraph, in the user's cache folder: run it once with network, or copy that folder",
                    "--judges",
                ) from error

    def __call__(self, references: Sequence[str], texts: Sequence[str]) -> dict[str, float]:
        """The metrics of texts, under RadEval's own keys."""
        found: dict[str, float] = {}
        for metric in self._metrics:
            found |= {key: float(value) for key, value in metric(refs=list(references), hyps=list(texts)).items()}
        return found


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
