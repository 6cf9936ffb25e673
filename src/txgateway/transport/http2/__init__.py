"""HTTP/2 (RFC 9113) on both sides: the same seams as HTTP/1.1, over streams of one connection.

A connection is made of four parts, each the base of the next: :mod:`.sending`, :mod:`.streams` (how they and the
connection end), :mod:`.control` (frames of the connection) and :mod:`.connection`, which reads. :mod:`.stream` is one
exchange's part of it; :mod:`.server` and :mod:`.client`, with a stream class each, say what a stream is for. HPACK is a
library's (:mod:`.hpack`).
"""
