"""What a process that knows the test Hub is asked to do; light, because that process imports it again."""

from huggingface_hub import DatasetCard, ModelCard


def validate_models(cards):
    for card in cards:
        ModelCard(card).validate()


def validate_datasets(cards):
    for card in cards:
        DatasetCard(card).validate()
