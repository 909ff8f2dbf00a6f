# SPDX-License-Identifier: Apache-2.0
"""A Unix socket in front of a MariaDB server's: the server looks as if it had no bulk statements (as MySQL), or the connection is lost
in the middle of an answer."""
import os
import socket
import struct
import threading

BULK = 1 << 2  # MARIADB_CLIENT_STMT_BULK_OPERATIONS, of the extended capabilities


def without_bulk(greeting):
    """The server's first packet (protocol 10) without that capability."""
    version_end = greeting.index(b"\0", 5)  # after the header of 4 bytes and the protocol's number
    at = version_end + 1 + 4 + 8 + 1 + 2 + 1 + 2 + 2 + 1 + 6
    extended, = struct.unpack_from("<I", greeting, at)
    assert greeting[4] == 10 and extended & BULK, "this server has no bulk statements"
    return greeting[:at] + struct.pack("<I", extended & ~BULK) + greeting[at + 4:]


class Proxy:
    """with Proxy(path, server_socket) as proxy: ... proxy.socket. Set `cut` to the number of bytes of answers after which each
    connection is closed. `requests`: how often something was sent to the server."""

    def __init__(self, path, server, bulk=False):
        self.socket, self.server, self.bulk, self.cut, self.requests = path, server, bulk, None, 0
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(16)
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(30)
        self.listener.close()
        os.unlink(self.socket)

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:  # closed
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self.server)
            for source, sink, edit in ((server, client, True), (client, server, False)):
                thread = threading.Thread(target=self._forward, args=(source, sink, edit))
                thread.start()
                self.threads.append(thread)

    def _forward(self, source, sink, answers):
        first, passed = answers and not self.bulk, 0
        try:
            while data := source.recv(65536):
                if first:
                    data, first = without_bulk(data), False
                left = self.cut - passed if answers and self.cut is not None else len(data) + 1
                passed += len(data)
                self.requests += not answers
                sink.sendall(data[:max(left, 0)])
                if left <= len(data):
                    break
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the other direction has ended first
