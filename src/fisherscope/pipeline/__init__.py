"""The only place that wires the stages: extraction, guard, evaluation, demo."""
