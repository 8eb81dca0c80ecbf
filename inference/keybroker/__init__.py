"""The key broker: the only process that can open a version's data key.

It holds a key per model (KEK) in its KMS, makes an HPKE key pair for each upload, and
releases a data key to a node that is assigned the version, sealed to the serving process.
"""
