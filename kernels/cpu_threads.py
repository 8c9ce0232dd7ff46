"""How the `prange` loop of a kernel is shared among threads: compiled once, as a function of a worker's number.

Numba's own way, `njit(parallel=True)`, makes three functions of a loop's body, and optimises and emits each: a kernel
took three to four times as long to compile as the same code for one thread. A CPU kernel of this library ends in its
one `prange` loop and returns nothing, so every thread can run it as it is, over its share of the indices. There are

    the worker    the kernel with two more arguments, a number and how many workers there are, in which `prange(n)`
                  goes from n * number // workers to n * (number + 1) // workers
    the entry     what Python calls: has Numba's threads call the worker, each with another number, and waits

Statements before the loop run in every worker.
"""

from __future__ import annotations

from functools import cache

import numba
from llvmlite import ir as llvm
from numba import types
from numba.core import cgutils, ir
from numba.core.compiler import CompilerBase, compile_extra
from numba.core.compiler_machinery import FunctionPass, register_pass
from numba.core.imputils import RefType, iternext_impl
from numba.core.ir_utils import build_definitions
from numba.core.targetconfig import ConfigStack
from numba.core.typing import signature as typed
from numba.core.untyped_passes import TranslateByteCode
from numba.extending import intrinsic, lower_builtin, models, register_model
from numba.np.ufunc import parallel

from .cpu_compiler import kernel_passes

_BYTE, _INTEGER = llvm.IntType(8), llvm.IntType(types.intp.bitwidth)
_POINTER, _INTEGERS = _BYTE.as_pointer(), _INTEGER.as_pointer()


def start_threads() -> None:
    """Starts Numba's threads, if they are not there yet: before a kernel that is shared among them is linked."""
    parallel._launch_threads()


def thread_count() -> int:
    """How many threads share a kernel: what `numba.get_num_threads` says, which takes two locks at each call."""
    return _reader_of_count()()


@cache
def _reader_of_count():
    start_threads()
    return parallel._get_num_threads


class EntryCompiler(CompilerBase):
    """Compiles the entry of a kernel, and its worker with it."""

    def define_pipelines(self):
        """Numba's own passes, and before them one that calls the workers instead."""
        return _passes_with(_CallWorkers, self.state)


class _WorkerCompiler(CompilerBase):
    def define_pipelines(self):
        return _passes_with(_TakeShare, self.state)


def _passes_with(own, state):
    passes = kernel_passes(state)
    passes.add_pass_after(own, TranslateByteCode)
    passes.finalize()
    return [passes]


@register_pass(mutates_CFG=True, analysis_only=False)
class _CallWorkers(FunctionPass):
    """Puts a call of the workers in place of the kernel's body."""

    _name = "ranvier_call_workers"

    def __init__(self):
        FunctionPass.__init__(self)

    def run_pass(self, state):
        func_ir = state.func_ir
        loc = func_ir.loc
        block = ir.Block(ir.Scope(None, loc), loc)

        def assign(name, value):
            variable = block.scope.redefine(name, loc)
            block.append(ir.Assign(value, variable, loc))
            return variable

        arguments = [assign(name, ir.Arg(name, i, loc)) for i, name in enumerate(func_ir.arg_names)]
        together = assign("$arguments", ir.Expr.build_tuple(arguments, loc))
        run = assign("$run", ir.Global("run", _workers_of(state.func_id.func), loc))
        nothing = assign("$nothing", ir.Expr.call(run, [together], (), loc))
        block.append(ir.Return(assign("$result", ir.Expr.cast(nothing, loc)), loc))
        func_ir.blocks = {min(func_ir.blocks): block}
        func_ir._definitions = build_definitions(func_ir.blocks)
        state.typingctx.refresh()  # which then knows the new intrinsic
        state.reload_init.append(start_threads)
        return True


@register_pass(mutates_CFG=False, analysis_only=False)
class _TakeShare(FunctionPass):
    """Adds the worker's number and their count to a kernel's arguments, and passes them to its `prange`."""

    _name = "ranvier_take_share"

    def __init__(self):
        FunctionPass.__init__(self)

    def run_pass(self, state):
        func_ir = state.func_ir
        entry = func_ir.blocks[min(func_ir.blocks)]
        added = [entry.scope.redefine(name, entry.loc) for name in ("$worker", "$workers")]
        for variable in reversed(added):
            index = func_ir.arg_count + added.index(variable)
            entry.prepend(ir.Assign(ir.Arg(variable.name, index, entry.loc), variable, entry.loc))
        func_ir.arg_names = [*func_ir.arg_names, *(variable.name for variable in added)]
        func_ir.arg_count += len(added)
        assignments = [s for block in func_ir.blocks.values() for s in block.find_insts(ir.Assign)]
        loops = [s for s in assignments if isinstance(s.value, ir.Global) and s.value.value is numba.prange]
        if len(loops) != 1:
            raise ValueError(f"{state.func_id.func_name}: expected one prange loop in a kernel, got {len(loops)}")
        loops[0].value = ir.Global("share", _share, loops[0].loc)
        for s in assignments:
            if isinstance(s.value, ir.Expr) and s.value.op == "call" and s.value.func.name == loops[0].target.name:
                s.value = ir.Expr.call(s.value.func, [*s.value.args, *added], (), s.loc)
        func_ir._definitions = build_definitions(func_ir.blocks)
        return True


class _Share(types.SimpleIterableType):
    """A worker's share of the indices of a loop."""

    def __init__(self):
        super().__init__("Share", _ShareIterator())


class _ShareIterator(types.SimpleIteratorType):
    def __init__(self):
        super().__init__("ShareIterator", types.intp)


@register_model(_Share)
class _ShareModel(models.StructModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, [("start", types.intp), ("end", types.intp)])


@register_model(_ShareIterator)
class _ShareIteratorModel(models.StructModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, [("index", types.EphemeralPointer(types.intp)), ("end", types.intp)])


@intrinsic
def _share(typing_context, length, worker, workers):
    """The share of indices 0..length - 1 that falls to a worker."""

    def generate(context, builder, signature, arguments):
        length, worker, workers = arguments
        share = cgutils.create_struct_proxy(signature.return_type)(context, builder)
        share.start = builder.sdiv(builder.mul(length, worker), workers)
        share.end = builder.sdiv(builder.mul(length, builder.add(worker, worker.type(1))), workers)
        return share._getvalue()

    return _Share()(types.intp, types.intp, types.intp), generate


@lower_builtin("getiter", _Share)
def _iterate_share(context, builder, signature, arguments):
    share = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0])
    iterator = cgutils.create_struct_proxy(signature.return_type)(context, builder)
    iterator.index = cgutils.alloca_once_value(builder, share.start)
    iterator.end = share.end
    return iterator._getvalue()


@lower_builtin("iternext", _ShareIterator)
@iternext_impl(RefType.UNTRACKED)
def _next_of_share(context, builder, signature, arguments, result):
    iterator = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0])
    index = builder.load(iterator.index)
    goes_on = builder.icmp_signed("<", index, iterator.end)
    result.set_valid(goes_on)
    with builder.if_then(goes_on):
        # Told that no index is negative, LLVM need not ask at every access whether it counts from an array's end.
        builder.assume(builder.icmp_signed(">=", index, index.type(0)))
        result.yield_(index)
        builder.store(builder.add(index, index.type(1), flags=["nsw", "nuw"]), iterator.index)


@cache
def _workers_of(function):
    """What the entry of a kernel calls, with a tuple of its arguments."""

    @intrinsic
    def run(typing_context, arguments):
        def generate(context, builder, signature, values):
            kinds = tuple(signature.args[0])
            worker = _compile_worker(context, function, (*kinds, types.intp, types.intp))
            values = _uncounted(context, builder, signature.args[0], values[0])
            _emit_calls(context, builder, worker, kinds, cgutils.unpack_tuple(builder, values))
            return context.get_dummy_value()

        return types.void(arguments), generate

    return run


def _uncounted(context, builder, kind, value):
    """An array, or those of a tuple, as their caller keeps them alive, without the place where references are counted:
    workers that take parts of one array would take turns at counting there, twice as long as they work."""
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, value)
        array.meminfo, array.parent = (cgutils.get_null_value(field.type) for field in (array.meminfo, array.parent))
        return array._getvalue()
    if isinstance(kind, types.BaseTuple):
        items = cgutils.unpack_tuple(builder, value)
        items = [_uncounted(context, builder, *item) for item in zip(kind, items)]
        return context.make_tuple(builder, kind, items)
    return value


def _compile_worker(context, function, kinds):
    """Adds the worker to the library of machine code that is being compiled."""
    flags = ConfigStack().top().copy()
    flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    library = context.active_code_library
    return compile_extra(
        context.typing_context, context, function, kinds, types.void, flags, {}, library, _WorkerCompiler
    )


def _emit_calls(context, builder, worker, kinds, values):
    """Instructions that call the worker once with each number.

    Numba's threads call a function with (addresses, sizes, steps, data): sizes[0] calls are wanted of it, from that
    number on which the first address is beyond `data`. `data` holds whether a worker has failed, the values for them,
    and how many they are.
    """
    start_threads()
    count = _call(builder, "get_num_threads", _INTEGER)
    fields = [llvm.IntType(1)(0), *values, count]
    record = llvm.LiteralStructType([field.type for field in fields])
    data = cgutils.alloca_once(builder, record)
    for i, field in enumerate(fields):
        builder.store(field, cgutils.gep_inbounds(builder, data, 0, i))

    kind = llvm.FunctionType(llvm.VoidType(), [_POINTER.as_pointer(), _INTEGERS, _INTEGERS, _POINTER])
    task = llvm.Function(builder.module, kind, f"{builder.function.name}.task")
    task.linkage = "internal"
    _fill_task(context, task, record, worker, kinds)

    address = builder.bitcast(data, _POINTER)
    addresses, sizes, steps = (
        builder.bitcast(cgutils.alloca_once_value(builder, value), _POINTER) for value in (address, count, _INTEGER(1))
    )
    function = builder.bitcast(task, _POINTER)
    interpreter = context.get_python_api(builder)
    state = interpreter.save_thread()
    _call(
        builder, "numba_parallel_for", llvm.VoidType(), function, addresses, sizes, steps, address, _INTEGER(0),
        _INTEGER(1), count,
    )  # fmt: skip
    interpreter.restore_thread(state)
    with cgutils.if_unlikely(builder, builder.load(cgutils.gep_inbounds(builder, data, 0, 0))):
        context.call_conv.return_user_exc(builder, RuntimeError, (f"{worker.fndesc.qualname}: a thread has failed",))


def _fill_task(context, task, record, worker, kinds):
    addresses, sizes, _, data = task.args
    builder = llvm.IRBuilder(task.append_basic_block())
    first = builder.sub(*(builder.ptrtoint(pointer, _INTEGER) for pointer in (builder.load(addresses), data)))
    data = builder.bitcast(data, record.as_pointer())
    failed, *fields = (cgutils.gep_inbounds(builder, data, 0, i) for i in range(len(record.elements)))
    *values, count = (builder.load(field) for field in fields)
    signature = typed(types.none, *kinds, types.intp, types.intp)
    with cgutils.for_range(builder, builder.load(sizes), intp=_INTEGER) as loop:
        arguments = [*values, builder.add(first, loop.index), count]
        status, _ = context.call_internal_no_propagate(builder, worker.fndesc, signature, arguments)
        with cgutils.if_unlikely(builder, status.is_error):
            builder.store(failed.type.pointee(1), failed)
    builder.ret_void()


def _call(builder, name, result, *arguments):
    kind = llvm.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)
