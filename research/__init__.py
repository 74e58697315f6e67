"""Fathom: how deep should a network be, where do its parameters sit, which of them should be trained?

The rooms and the direction of their imports:

    config, ops -> models -> parameters -> inspection, pretrained, data -> training -> sweeps, deployment

`analysis` reads run folders and imports none of them.
"""
