"""A package beside the project that adds one of each kind to it; ``docs/extending.md`` walks through it."""
