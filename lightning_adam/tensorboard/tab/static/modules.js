// Tensor names as a tree of modules, in model order.

const FEW = 6;
const INLINE = 2; // a module of at most so many tensors is not worth a fold of its own

/** A tree: {label, path, rows (indices of all tensors below), children} for modules, {label, path, row} for tensors. */
export function moduleTree(names) {
  const root = {label: '', path: '', rows: [], children: [], byName: new Map()};
  names.forEach((name, row) => {
    const parts = name.split('.');
    let node = root;
    node.rows.push(row);
    for (const part of parts.slice(0, -1)) {
      if (!node.byName.has(part)) {
        const child = {
          label: part,
          path: node.path ? `${node.path}.${part}` : part,
          rows: [],
          children: [],
          byName: new Map(),
        };
        node.byName.set(part, child);
        node.children.push(child);
      }
      node = node.byName.get(part);
      node.rows.push(row);
    }
    node.children.push({label: parts.at(-1), path: name, row});
  });
  return tidy(root);
}

/** Small modules move into their parent, and a module with a single module in it becomes one with it. */
function tidy(node) {
  node.children = node.children.flatMap((child) => {
    if (child.row !== undefined) return [child];
    tidy(child);
    const relabel = (grandchild) => ({...grandchild, label: `${child.label}.${grandchild.label}`});
    const onlyTensors = child.children.every((c) => c.row !== undefined);
    if ((onlyTensors && child.children.length <= INLINE) || child.children.length === 1) return child.children.map(relabel);
    return [child];
  });
  return node;
}

/** The rows to show: {node, depth}; open holds the paths of open modules, kept the rows that the filter keeps (null: all). */
export function visibleRows(tree, open, kept = null) {
  const rows = [];
  const add = (node, depth) => {
    for (const child of node.children) {
      if (!keptRows(child, kept).length) continue;
      rows.push({node: child, depth});
      if (open.has(child.path) && child.row === undefined) add(child, depth + 1);
    }
  };
  add(tree, 0);
  return rows;
}

/** The tensors of a node that the filter keeps. */
export function keptRows(node, kept) {
  const rows = node.rows ?? [node.row];
  return kept ? rows.filter((row) => kept.has(row)) : rows;
}

export function modulePaths(tree) {
  return tree.children.filter((c) => c.row === undefined).flatMap((c) => [c.path, ...modulePaths(c)]);
}

/** Open level by level while the rows stay few enough to look at; a handful of folded modules would tell too little. */
export function defaultOpen(tree, most) {
  let open = new Set(),
    level = tree.children.filter((c) => c.row === undefined);
  while (level.length) {
    const next = new Set([...open, ...level.map((node) => node.path)]);
    if (visibleRows(tree, next).length > most && visibleRows(tree, open).length >= FEW) break;
    open = next;
    level = level.flatMap((node) => node.children.filter((c) => c.row === undefined));
  }
  return open;
}
