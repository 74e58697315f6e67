"""What stands between a command line and the rooms that do the work: reading flags, config files and overrides.

`arguments` and `listing` import nothing heavy, so that `launch.py` and `launch.py --help` answer at once; `loading`,
`overrides` and `fields` bring JAX with them, through `research.config`.
"""
