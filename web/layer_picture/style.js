// The style of the picture. ComfyUI's CSS variables give the colours, so that it follows the page's theme.

const STYLE_ID = "lora-transfer-picture-style";

export const STYLE = `
.lt-picture { --lt-text: var(--input-text, #ddd); --lt-faint: var(--descrip-text, #999); --lt-line: var(--border-color, #4e4e4e);
  box-sizing: border-box; width: 100%; height: 100%; overflow: hidden auto; padding: 10px 12px; border-radius: 8px;
  display: flex; flex-direction: column; gap: 8px; font: 12px/1.4 system-ui, sans-serif; text-align: left;
  color: var(--lt-text); background: var(--comfy-input-bg, #222); scrollbar-width: thin; }
.lt-picture > * { flex: none; }
.lt-picture canvas { display: block; touch-action: none; border-radius: 3px; outline: none; }
.lt-picture canvas:focus-visible, .lt-picture button:focus-visible { outline: 2px solid currentColor; outline-offset: 2px; }
.lt-picture .lt-title { font-weight: 600; white-space: nowrap; overflow: hidden; display: flex; gap: 6px; }
.lt-picture .lt-title span { overflow: hidden; text-overflow: ellipsis; flex: 0 1 auto; min-width: 0; }
.lt-picture .lt-title span:first-child { flex-shrink: 0; max-width: 46%; }
.lt-picture .lt-title .lt-arrow { flex: none; color: var(--lt-faint); }
.lt-picture .lt-strip { cursor: pointer; }
.lt-picture .lt-scale { cursor: ew-resize; }
.lt-picture .lt-counts, .lt-picture .lt-caption { color: var(--lt-faint); }
.lt-picture .lt-counts { display: flex; justify-content: space-between; gap: 8px; }
.lt-picture .lt-detail { height: 68px; box-sizing: border-box; overflow: hidden; overflow-wrap: anywhere; white-space: pre-line;
  border: solid var(--lt-line); border-width: 1px 0; padding: 5px 0; color: var(--lt-faint); font-size: 11px; line-height: 14px; }
.lt-picture .lt-detail b { display: block; font-size: 12px; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.lt-picture .lt-detail b { color: var(--lt-text); font-weight: 600; }
.lt-picture .lt-row { display: flex; flex-wrap: wrap; gap: 4px; align-items: center; }
.lt-picture button { font: inherit; color: var(--lt-text); background: transparent; border: 1px solid var(--lt-line);
  border-radius: 10px; padding: 1px 8px; cursor: pointer; }
.lt-picture button:hover { border-color: currentColor; }
.lt-picture button[aria-pressed="false"] { color: var(--lt-faint); border-style: dashed; text-decoration: line-through; }
.lt-picture .lt-open { border: 0; padding: 0 2px; white-space: nowrap; }
.lt-picture .lt-spring { flex: 1; }
.lt-picture .lt-legend { display: flex; flex-wrap: wrap; gap: 2px 12px; align-items: center; color: var(--lt-faint); font-size: 11px; }
.lt-picture .lt-legend i { display: inline-block; width: 14px; height: 9px; margin-right: 5px; border-radius: 2px; }
.lt-picture .lt-legend i.lt-ramp { width: 64px; }
.lt-picture .lt-legend i.lt-below { background: repeating-linear-gradient(135deg, var(--lt-text) 0 1px, transparent 1px 4px), #28ae8066; }
.lt-picture .lt-legend i.lt-unmatched { background: repeating-linear-gradient(135deg, var(--lt-faint) 0 .6px, transparent .6px 4px),
  repeating-linear-gradient(45deg, var(--lt-faint) 0 .6px, transparent .6px 4px); }
.lt-picture .lt-legend i.lt-copied { border-bottom: 3px solid #ff9f43; box-sizing: border-box; background: #28ae80; }
.lt-picture [hidden] { display: none !important; }
`;

/** Add the style to the page once. */
export function addStyle() {
  if (document.getElementById(STYLE_ID)) return;
  const style = document.createElement("style");
  style.id = STYLE_ID;
  style.textContent = STYLE;
  document.head.append(style);
}
