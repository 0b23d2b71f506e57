// Short names of blocks, and groups of roles. A name that no line of a table knows still gets a label.

// [pattern of a block's name, section]. The first group of the pattern is the number that users know.
const SECTIONS = [
  [/^input_blocks\.(\d+)/, "IN"],
  [/^middle_block\b/, "MID"],
  [/^output_blocks\.(\d+)/, "OUT"],
  [/^(?:transformer\.)?double_blocks\.(\d+)/, "DOUBLE"],
  [/^(?:transformer\.)?single_blocks\.(\d+)/, "SINGLE"],
  [/^joint_blocks\.(\d+)/, "JOINT"],
  [/(?:^|\.)(?:\w*blocks?|layers)\.(\d+)/, "BLOCK"],
];
const TEXT_ENCODERS = [
  [/clip_?l/i, "L"], [/clip_?g/i, "G"], [/clip_?h/i, "H"], [/umt5/i, "umT5"], [/t5/i, "T5"], [/llama/i, "Llama"],
  [/qwen/i, "Qwen"], [/gemma/i, "Gemma"],
];

/** {section, number} of a block, such as IN 4 or DOUBLE 12. Text encoders are numbered by their letter. */
export function nameBlock(name, isTextEncoder) {
  if (isTextEncoder) return { section: "TEXT", number: TEXT_ENCODERS.find(([pattern]) => pattern.test(name))?.[1] ?? "" };
  for (const [pattern, section] of SECTIONS) {
    const match = pattern.exec(name);
    if (match) return { section, number: match[1] ?? "" };
  }
  return { section: "OTHER", number: "" };
}

// [group, pattern of a role]; the first that matches counts.
const GROUPS = [
  ["cross-attention", /attn2|cross_?attn|cross_attention/],
  ["attention", /attn|attention|to_[qkv]\b|qkv|^linear1\[/],
  ["feed-forward", /\bff|ffn|mlp|feed_forward|\bfc\d|^linear[12]/],
  ["time, modulation", /emb|mod|time|adaln/i],
  ["convolution", /conv|in_layers|out_layers|\bop$/],
];

/** The order in which filters are offered. */
export const GROUP_NAMES = [...GROUPS.map(([group]) => group), "text encoder", "other"];

/** The group of a layer, by its role and its shape. */
export function groupOf(role, shape, isTextEncoder) {
  if (isTextEncoder) return "text encoder";
  const group = GROUPS.find(([, pattern]) => pattern.test(role));
  if (group) return group[0];
  const isKernel = shape.split(" x ").length > 3 && !shape.endsWith("1 x 1");
  return isKernel ? "convolution" : "other";
}

/** The end of a long text: names of models and layers differ at their ends. */
export function shorten(text, letters) {
  return text.length <= letters ? text : `…${text.slice(text.length - letters + 1)}`;
}

/** A file's name without its folder and ending. */
export function fileTitle(name) {
  return name.split(/[\\/]/).pop().replace(/\.(safetensors|sft|gguf|ckpt|pt|bin)$/i, "");
}
