"""Published metrics with models of their own (RadGraph, CheXbert, …) by the optional package `radeval`."""

from collections.abc import Sequence

from radrecipes.errors import InputError

# Written against the source of radeval 2.2.1. These send the texts to a third party.
_REMOTE_METRICS = ("crimson", "radfact_ct", "mammo_green")


def radeval_figures(references: Sequence[str], texts: Sequence[str], metrics: Sequence[str]) -> dict[str, float]:
    """Corpus figures of RadEval (Xu et al., 2025).

    Its models come from the Hugging Face Hub and are cached in `HF_HOME` and in `chexbert` and `radgraph` of the user's
    cache folder. Where there is no network, copy these folders from a machine that has run the metric once.

    Args:
        references (`Sequence[str]`):
            The reference of each text.
        texts (`Sequence[str]`):
            What was written.
        metrics (`Sequence[str]`):
            RadEval's names, for example `["radgraph", "f1chexbert"]`. Metrics that ask a remote service are refused:
            reports do not leave the machine.

    Returns:
        `dict[str, float]`: RadEval's own keys, for example `radgraph_partial` and `f1chexbert_all_micro_f1`.

    Raises:
        InputError: `radeval` is not installed, a metric is unknown or remote, or its model cannot be had.
    """
    try:
        from radeval import RadEval
    except ImportError as error:
        raise InputError(f"radeval cannot be imported ({_line(error)}); pip install 'radrecipes[radeval]'") from error
    figures: dict[str, float] = {}
    for name in metrics:
        if name in _REMOTE_METRICS:
            raise InputError(f"metric {name} sends reports to a remote service; choose another")
        try:
            metric = RadEval(metrics=[name], show_progress=False)
        except ValueError as error:
            raise InputError(_line(error)) from error
        # RadGraph wraps a failed download into a bare Exception, the others raise what their libraries raise.
        except Exception as error:
            raise InputError(
                f"metric {name} cannot be loaded ({_line(error)}); its model has to be in HF_HOME or, for f1chexbert and "
                "radgraph, in the user's cache folder: run it once with network, or copy the folder here"
            ) from error
        figures |= {key: float(value) for key, value in metric(refs=list(references), hyps=list(texts)).items()}
    return figures


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
