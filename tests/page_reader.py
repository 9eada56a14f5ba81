"""Reads a page as a browser would, for the tests."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """Elements, attributes and text of a page; fails on tags that are not closed in order."""

    VOID = ("meta", "link", "input", "br", "path", "rect", "circle", "use")

    def __init__(self, html):
        super().__init__()
        self.open, self.elements, self.text, self.scripts = [], [], "", []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.text += " " if tag in ("td", "th", "dt", "dd") else ""
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ""
        if inside == "script":
            self.scripts.append(data)
        elif inside != "style":
            self.text += data

    @property
    def words(self):
        return " ".join(self.text.split())
