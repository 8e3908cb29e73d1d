"""Who is who in the mesh: SPIFFE names, the authority that signs them, keys, folders and tokens.

`spiffe`, `keys` and `authority` are pure: time comes in as an argument. `folder` and `tokens` are
files, `enrolment` calls the authority.
"""
