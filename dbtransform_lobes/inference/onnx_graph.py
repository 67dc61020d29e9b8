"""An ONNX graph that is written node by node."""

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

OPSET = 18
TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}


class Graph:
    """Nodes, constants, inputs and outputs of a graph.

    Values are known by their names; arrays given in place of a name become
    constants.

    Example
    -------
    >>> graph = Graph()
    >>> x = graph.input("x", (2,))
    >>> y = graph.op("Add", x, np.ones(2, np.float32), name="y")
    >>> graph.output(y, (2,))
    >>> [node.op_type for node in graph.model().graph.node]
    ['Add']
    """

    def __init__(self):
        self.nodes, self.constants = [], []
        self.inputs, self.outputs = [], []

    def input(self, name, shape, dtype="float32"):
        """Add an input; returns its name."""
        info = helper.make_tensor_value_info(name, TYPES[dtype], shape)
        self.inputs.append(info)
        return name

    def output(self, name, shape, dtype="float32"):
        """Make a value an output."""
        info = helper.make_tensor_value_info(name, TYPES[dtype], shape)
        self.outputs.append(info)

    def op(self, kind, *inputs, outputs=1, name=None, **attributes):
        """Add a node.

        Arguments
        ---------
        kind : str
            ONNX operator.
        *inputs : str | numpy.ndarray | torch.Tensor
            Names of values, or constants.
        outputs : int
            Number of outputs.
        name : str, optional
            Name of the output.
        **attributes
            Of the operator.

        Returns
        -------
        str, or list of str for several outputs
        """
        number = len(self.nodes)
        names = [name or f"{kind}_{number}_{i}" for i in range(outputs)]
        inputs = [self._named(value) for value in inputs]
        self.nodes.append(
            helper.make_node(
                kind, inputs, names, name=f"{kind}_{number}", **attributes
            )
        )
        return names[0] if outputs == 1 else names

    def reshape(self, x, *shape):
        """Reshape a value; -1 stands for one size."""
        return self.op("Reshape", x, np.array(shape, np.int64))

    def split(self, x, sizes, axis):
        """Split a value; returns names."""
        sizes = list(sizes)
        if len(sizes) == 1:
            return [x]
        return self.op(
            "Split",
            x,
            np.array(sizes, np.int64),
            outputs=len(sizes),
            axis=axis,
        )

    def slice(self, x, start, stop, axis, name=None):
        """A part of a value along an axis."""
        bounds = [np.array([n], np.int64) for n in (start, stop, axis)]
        return self.op("Slice", x, *bounds, name=name)

    def _named(self, value):
        if isinstance(value, str):
            return value
        name = f"constant_{len(self.constants)}"
        array = np.ascontiguousarray(value)
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def model(self):
        """The checked onnx.ModelProto."""
        graph = helper.make_graph(
            self.nodes, "dbtransform", self.inputs, self.outputs, self.constants
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=9,  # that of opset 18
            producer_name="dbtransform",
        )
        checker.check_model(model, full_check=True)
        return model
