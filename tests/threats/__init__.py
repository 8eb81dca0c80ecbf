"""The threats of docs/threat-model.md, a module each: the attack, and the attack that works.

Each module tells an attack on real parts, which fails, and then its control: the same attack
where the one defence that matters is missing, which succeeds. A control that fails says that
the attack proves nothing any more.
"""
