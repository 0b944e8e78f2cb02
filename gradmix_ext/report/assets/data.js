// The embedded data. Large arrays are deflated, base64-coded little-endian integers.

const ARRAYS = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, i1: Int8Array };

/** Unpacks {type, shape, data} to a typed array that knows its shape. */
async function unpack({ type, shape, data }) {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const values = new ARRAYS[type](await new Response(stream).arrayBuffer());
  return Object.assign(values, { shape });
}

/** Where the block of the leading indices starts: at(array, i, j) for array[i, j, ...]. */
function at(array, ...index) {
  let offset = 0;
  array.shape.forEach((size, axis) => { offset = offset * size + (index[axis] ?? 0); });
  return offset;
}

/** Everything, unpacked. */
async function load() {
  const data = JSON.parse(document.getElementById("data").textContent);
  for (const arm of data.arms) {
    const { matrices, pairs, confusion } = arm;
    matrices.class_il = await unpack(matrices.class_il);
    matrices.task_il = await unpack(matrices.task_il);
    if (pairs?.allowed) {
      pairs.allowed = await unpack(pairs.allowed);
      pairs.scores = await unpack(pairs.scores);
    }
    if (confusion?.counts) confusion.counts = await unpack(confusion.counts);
  }
  return data;
}
