// A report as a short text, for a workflow that is also written into every picture that the user saves: 150 kB of JSON
// become about 25 kB.

/** JSON values as text: gzip, then base64. */
export async function pack(values) {
  const stream = new Blob([JSON.stringify(values)]).stream().pipeThrough(new CompressionStream("gzip"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  let binary = "";
  for (const byte of bytes) binary += String.fromCharCode(byte);
  return btoa(binary);
}

/** The values of a text that `pack` made; null for any other text, such as one that was edited by hand. */
export async function unpack(text) {
  try {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  } catch {
    return null;
  }
}
