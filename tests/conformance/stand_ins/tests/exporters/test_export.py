"""Stand-in: the export tests are not in the source distribution."""


class ExportTesterMixin:
    """The base that `ModelTesterMixin` expects, without tests."""
