"""How much at once, how many at a time, and when: decided without any input or output."""
