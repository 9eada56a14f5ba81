"""Task `protocol`: choose the imaging protocol for the free text of an imaging order."""

from radrecipes.data.synthetic_protocol.generator import generate_orders
from radrecipes.tasks.label_task import LabelTask
from radrecipes.tasks.task import TaskWords


class ProtocolTask(LabelTask):
    """Imaging protocols from orders."""

    name = "protocol"
    input_column = "note"
    generate = staticmethod(generate_orders)
    synthetic_label_set = "data/label_sets/protocol_ct_mr.yaml"
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
