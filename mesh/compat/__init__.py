"""Whether a change of a contract is safe while regions run different versions of it.

The engine is pure: `compare` judges two versions by the rules. What reads files, asks git or runs
buf is in `sources` and `wire`.
"""
