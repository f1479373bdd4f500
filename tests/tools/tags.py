"""Reading the HTML of a page that no browser has to draw."""

from __future__ import annotations

from html.parser import HTMLParser


class Tags(HTMLParser):
    """The links and ids of a text whose tags all close."""

    def __init__(self, text):
        super().__init__()
        self.links, self.ids, self._open = [], [], []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.links += [given] if "href" in given else []
        self.ids += [given["id"]] if "id" in given else []
        self._open += [tag] if tag not in ("br", "wbr") else []

    def handle_endtag(self, tag):
        assert self._open.pop() == tag
