"""A graph of steps over one state, in the manner of LangGraph and as small as it can be."""

END = "end"


class Graph:
    def __init__(self):
        self.nodes, self.edges = {}, {}

    def node(self, name, then):
        """Adds a step. `then` is the next one's name, or a function of the state that says it."""

        def add(step):
            self.nodes[name], self.edges[name] = step, then
            return step

        return add

    def run(self, start, state, most=20):
        """Yields (step, state) after every step until the end."""
        name = start
        for _ in range(most):
            state = {**state, **(self.nodes[name](state) or {})}
            yield name, state
            then = self.edges[name]
            name = then(state) if callable(then) else then
            if name == END:
                return
        raise RuntimeError(f"the graph took more than {most} steps")
