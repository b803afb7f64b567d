"""The command line: a class for each command.

Its fields are the arguments, and calling it does the work.

What the work needs is imported when it is called for, so that help, and what is wrong with arguments, come at once:
the modules of the classes import no torch, NumPy, SciPy, pandas, Matplotlib or pydantic. For the same reason their
fields are ``Optional[X]``, and several values have a class: to understand ``X | None`` and ``tuple[X, ...]``, tyro
imports a type checker, which takes as long as all of its own modules.
"""
