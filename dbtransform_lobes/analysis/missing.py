"""What is raised in place of a figure."""


class MissingPart(ValueError):
    """The model has no such part, so there is nothing to draw."""
