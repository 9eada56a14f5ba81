"""Task `protocol`: choose the imaging protocol for the free text of an imaging order."""

from types import MappingProxyType

from radrecipes.data.synthetic_protocol.generator import generate_orders
from radrecipes.data.synthetic_safety.generator import SLICE_COLUMNS, generate_safety_orders
from radrecipes.tasks.label_task import LabelTask, SyntheticRows
from radrecipes.tasks.task import TaskWords

_ABOUT_SAFETY = (
    "The protocol follows from the question and from stated facts by rules that simplify public guidance; they are not medical "
    "advice. `rule` names the fact that decides: most orders have a counterpart that differs only in this fact and has another "
    "protocol. `pair` says by what the two differ."
)


class ProtocolTask(LabelTask):
    """Imaging protocols from orders."""

    name = "protocol"
    input_column = "note"
    synthetic = MappingProxyType(
        {
            "scenarios": SyntheticRows(
                generate_orders,
                "data/label_sets/protocol_ct_mr.yaml",
                rows=6600,
                test_styles=("second",),
            ),
            "safety": SyntheticRows(
                generate_safety_orders,
                "data/label_sets/protocol_safety.yaml",
                rows=4000,
                groups="the wording of the clinical question",
                slice_columns=SLICE_COLUMNS,
                about=_ABOUT_SAFETY,
            ),
        }
    )
    instruction = "Choose the imaging protocol for this order."
    words = TaskWords(
        title="Protocols from orders",
        summary="Chooses the imaging protocol for the free text of an imaging order, from a fixed list of protocols.",
        example="58F r/o renal recurrence, hx RCC",
        rows="orders",
        groups="scenarios",
        answer="protocol",
        answers="protocols",
        categories="labels",
        tags=("imaging-protocol",),
        intended_use=(
            "For proposing an imaging protocol to the person who assigns protocols. Meant for research, and for evaluation on a "
            "department's own orders before any use."
        ),
        limits=(
            "No order may be assigned a protocol without a person who is responsible for it, whatever the probability.",
            "It knows only the protocols of its list and the style of its training data. Other hospitals write differently: "
            "evaluate it there first.",
            "It reads the order alone: no allergies, kidney function, implants or pregnancy that the order does not mention.",
        ),
    )
