"""HTTP/2 (RFC 9113) on both sides: the same seams as HTTP/1.1, over streams of one connection.

:mod:`.connection` reads and writes frames and keeps the windows, :mod:`.stream` is one exchange's part of it;
:mod:`.server` and :mod:`.client` say what a stream is for. HPACK is a library's (:mod:`.hpack`).
"""
