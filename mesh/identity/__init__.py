"""Who is who in the mesh: SPIFFE names, the authority that signs them, keys, folders and tokens.

Everything but `folder` and `tokens`, which are files, is pure: time comes in as an argument.
"""
