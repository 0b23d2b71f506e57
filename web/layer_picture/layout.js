// Where everything stands, in CSS pixels. Values in, values out: nothing here draws.

export const STRIP_HEIGHT = 74;
const STRIP_LABELS = 18;
const GAP = 1;
const WIDEST_BLOCK = 120;
const [NARROWEST, WIDEST] = [3, 30];
const ROW_HEIGHT = 13;
const COLUMN_LABELS = 16;
const PANEL_GAP = 10;
const ROLE_WIDTH = 112;
const SMALL = 4; // blocks of one role: fewer get no panel of their own

/** The strip: {cells: [{x, width, cell, bands: [{y, height, block}]}], sections: [{x, width, label}]}. */
export function layoutStrip(model, width) {
  const height = STRIP_HEIGHT - STRIP_LABELS;
  const changes = model.cells.filter((cell, index) => index && cell.section !== model.cells[index - 1].section).length;
  const sectionGap = 5;
  const step = (width - changes * sectionGap) / Math.max(1, model.cells.length);
  const cells = [];
  const sections = [];
  let x = 0;
  for (const [index, cell] of model.cells.entries()) {
    if (index && cell.section !== model.cells[index - 1].section) x += sectionGap;
    if (sections.at(-1)?.label !== cell.section) sections.push({ x, width: 0, label: cell.section });
    const bandHeight = height / cell.blocks.length;
    const bands = cell.blocks.map((block, row) => ({ block, y: row * bandHeight, height: bandHeight }));
    cells.push({ x, width: Math.max(1, Math.min(step, WIDEST_BLOCK) - GAP), cell, bands });
    x += Math.min(step, WIDEST_BLOCK);
    sections.at(-1).width = x - sections.at(-1).x;
  }
  return { cells, sections, height, width };
}

/** The heatmap: blocks in columns, in the model's order; roles in rows. Blocks that share roles form a panel. */
export function layoutHeatmap(model, width, isShown) {
  const panels = [];
  let top = 0;
  for (const panel of groupPanels(model, isShown)) {
    const perLine = Math.max(1, Math.floor((width - ROLE_WIDTH) / NARROWEST));
    for (let start = 0; start < panel.columns.length; start += perLine) {
      const columns = panel.columns.slice(start, start + perLine);
      const placed = placePanel(panel, columns, top, width);
      panels.push(placed);
      top += placed.height + PANEL_GAP;
    }
  }
  return { panels, width, height: Math.max(ROW_HEIGHT, top - PANEL_GAP) };
}

function placePanel(panel, columns, top, width) {
  const cellWidth = Math.min(WIDEST, (width - ROLE_WIDTH) / columns.length);
  const cells = [];
  for (const [column, entry] of columns.entries()) {
    for (const layer of entry.layers) {
      const x = ROLE_WIDTH + column * cellWidth;
      const y = top + COLUMN_LABELS + panel.rows.get(panel.rowOf(layer)) * ROW_HEIGHT;
      cells.push({ x, y, width: cellWidth - (cellWidth > 5 ? GAP : 0.4), height: ROW_HEIGHT - GAP, layer, column });
    }
  }
  const rows = [...panel.rows].map(([role, index]) => ({ role, y: top + COLUMN_LABELS + index * ROW_HEIGHT }));
  const height = COLUMN_LABELS + panel.rows.size * ROW_HEIGHT;
  return { top, height, cells, rows, marks: markSections(columns, cellWidth), rowHeight: ROW_HEIGHT };
}

/** Where a new section or number starts: [{x, label, isSection}]. The section's name stands where it starts. */
function markSections(columns, cellWidth) {
  const marks = [];
  let last = null;
  for (const [index, { block }] of columns.entries()) {
    const isSection = block?.section !== last?.section;
    if (block && (isSection || block.number !== last.number)) {
      const label = isSection ? `${block.section} ${block.number}`.trim() : block.number;
      marks.push({ x: ROLE_WIDTH + index * cellWidth, label, isSection });
    }
    last = block;
  }
  return marks;
}

/** [{columns: [{block, layers}], rows: Map(role -> row), rowOf(layer)}]: the largest panel first, single layers last. */
function groupPanels(model, isShown) {
  const groups = [];
  const single = [];
  for (const block of model.blocks) {
    const layers = block.layers.filter(isShown);
    const isSingle = block.layers.length === 1 && block.section === "OTHER";
    if (isSingle) single.push(...layers);
    else if (layers.length) joinGroup(groups, block, layers);
  }
  single.push(...model.layers.filter((layer) => layer.block === null && isShown(layer)));
  const isSmall = ({ roles, columns }) => roles.size === 1 && columns.length < SMALL && groups.length > 1;
  for (const group of groups.filter(isSmall)) single.push(...group.columns.flatMap(({ layers }) => layers));
  const panels = groups.filter((group) => !isSmall(group)).map(({ columns, roles }) => ({
    columns: columns.sort((first, second) => first.block.index - second.block.index),
    rows: new Map([...roles].map((role, index) => [role, index])),
    rowOf: (layer) => layer.role,
  }));
  panels.sort((first, second) => second.columns.length * second.rows.size - first.columns.length * first.rows.size);
  single.sort((first, second) => first.index - second.index);
  if (single.length) panels.push(singlePanel(single));
  return panels;
}

/** Add a block to the group that has one of its roles; a block that belongs to several groups joins them. */
function joinGroup(groups, block, layers) {
  const roles = new Set(layers.map((layer) => layer.role));
  const isLike = (group) => [...roles].some((role) => group.roles.has(role));
  const related = groups.filter((group) => group.isTextEncoder === block.isTextEncoder && isLike(group));
  const [first = { columns: [], roles: new Set(), isTextEncoder: block.isTextEncoder }, ...rest] = related;
  for (const group of rest) {
    first.columns.push(...group.columns);
    for (const role of group.roles) first.roles.add(role);
    groups.splice(groups.indexOf(group), 1);
  }
  first.columns.push({ block, layers });
  for (const role of roles) first.roles.add(role);
  if (!related.length) groups.push(first);
}

function singlePanel(layers) {
  return {
    columns: layers.map((layer) => ({ block: null, layers: [layer] })),
    rows: new Map([["other layers", 0]]),
    rowOf: () => "other layers",
  };
}

/** The cell of the heatmap at a point, or null. */
export function cellAt(heatmap, x, y) {
  const panel = heatmap.panels.find(({ top, height }) => y >= top && y < top + height);
  const isInside = (cell) => x >= cell.x && x < cell.x + cell.width + GAP && y >= cell.y && y < cell.y + cell.height + GAP;
  return panel?.cells.find(isInside) ?? null;
}

/** The nearest cell in a direction ("ArrowLeft" and so on); the cell itself if there is none. */
export function nextCell(heatmap, cell, key) {
  const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key];
  let best = cell;
  let least = Infinity;
  for (const panel of heatmap.panels) {
    for (const candidate of panel.cells) {
      const along = dx * (candidate.x - cell.x) + dy * (candidate.y - cell.y);
      const across = Math.abs(dy * (candidate.x - cell.x)) + Math.abs(dx * (candidate.y - cell.y));
      if (along > 0.5 && along + 20 * across < least) [best, least] = [candidate, along + 20 * across];
    }
  }
  return best;
}

/** The cell of the strip at a point, or null. */
export function stripCellAt(strip, x) {
  return strip.cells.find((cell) => x >= cell.x && x < cell.x + cell.width + GAP) ?? null;
}
