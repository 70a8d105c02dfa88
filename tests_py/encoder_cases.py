"""What the encoders are asked for, in CPython and in a tab."""

from __future__ import annotations

TEXTS = (
    "A red circle on a blue ground.",
    "The quick brown fox jumps over the lazy dog, again and again; nobody knows why.",
    "Unbelievably, electroencephalographers disagree!",
    "Is it raining today?",
    "How many people live in the capital of the country? " * 12,
)
"""One has words that are split, one is longer than any engine's usual batch."""

QUESTIONS = {
    "How many people live in Berlin?": (
        "Berlin had a population of 3,520,031 registered inhabitants in an area of 891.82 square kilometers.",
        "Berlin is well known for its museums.",
        "The Eiffel tower was built for the world fair of 1889.",
    ),
    "What do cats eat?": (
        "Cats are obligate carnivores: their diet is meat, such as mice and birds.",
        "A cat sleeps for many hours of the day.",
        "The stock exchange closed higher on Friday.",
    ),
}
"""Question → documents, the best one first and the worst one last."""


def shuffled(question: str) -> list[str]:
    """The documents of a question in an order that is not their rank's."""
    first, second, third = QUESTIONS[question]
    return [third, first, second]
