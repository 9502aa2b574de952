"""In the way of the real one: who imports it, learns that it is not there, as where the relay is deployed."""

raise ImportError("rich belongs to the extra of the demo")
