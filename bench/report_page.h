// report_page: the parts of the report that are the same in every report, its style and its script.
#pragma once

namespace kd {

inline constexpr char kReportStyle[] = R"css(
:root{color-scheme:light dark;--bg:#fcfcfb;--ink:#1c2126;--muted:#5c656e;--line:#dadee2;--soft:#f2f3f2;--accent:#0067a3;--warn:#7a4300;--warn-bg:#fdf3e2}
@media(prefers-color-scheme:dark){:root{--bg:#15181b;--ink:#e3e6e9;--muted:#9ba4ad;--line:#30363c;--soft:#1e2226;--accent:#6cbcee;--warn:#f2bd6b;--warn-bg:#2b2417}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-behavior:smooth}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1160px;margin:0 auto;padding:36px 24px 80px}
h1{font-size:30px;line-height:1.2;letter-spacing:-.015em;margin:0 0 4px;font-weight:650}
h2{font-size:21px;line-height:1.3;letter-spacing:-.01em;margin:0 0 6px;font-weight:650}
h3{font-size:16px;margin:24px 0 8px;font-weight:650}
p{margin:0 0 12px;max-width:74ch}
a{color:var(--accent)}
code,pre{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
pre{background:var(--soft);padding:12px 14px;border-radius:6px;margin:0 0 12px;white-space:pre-wrap;overflow-wrap:anywhere}
.lead{color:var(--muted);margin-bottom:18px}
nav{display:flex;flex-wrap:wrap;gap:4px 18px;padding:10px 0;border-top:1px solid var(--line);font-size:14px}
nav a{text-decoration:none}
nav a:hover{text-decoration:underline}
nav+section{margin-top:8px}
section{border-top:1px solid var(--line);padding-top:22px;margin-top:34px}
.says{display:grid;grid-template-columns:max-content 1fr;gap:7px 20px;margin:0 0 18px;max-width:88ch}
.says dt{color:var(--muted)}
.says dd{margin:0}
.warn{background:var(--warn-bg);border-radius:6px;padding:12px 16px;margin:16px 0;font-size:15px}
.warn b{color:var(--warn)}
.warn ul{margin:4px 0 0;padding-left:18px}
.warn li{margin:3px 0;overflow-wrap:anywhere}
.note{color:var(--muted);font-size:13.5px;line-height:1.5;max-width:92ch;margin:8px 0 0}
.caveat{border-left:3px solid var(--warn);padding:2px 0 2px 12px;font-size:14px;line-height:1.5;max-width:88ch;margin:12px 0}
.scroll{overflow-x:auto;-webkit-overflow-scrolling:touch;margin:10px 0 0}
table{border-collapse:separate;border-spacing:0;font-size:13.5px;line-height:1.4;font-variant-numeric:tabular-nums}
th,td{padding:5px 9px;text-align:left;vertical-align:top;white-space:nowrap}
th{font-weight:600;color:var(--muted);border-bottom:1px solid var(--muted);vertical-align:bottom}
th:first-child,td:first-child{padding-left:0}
.sort th{cursor:pointer}
.sort th:hover{color:var(--ink)}
th[aria-sort]::after{content:" ▾"}
th[aria-sort=ascending]::after{content:" ▴"}
.r{text-align:right}
tbody+tbody tr:first-child td{border-top:1px solid var(--line)}
tbody tr:hover td{background:var(--soft)}
.wrap{font-size:12.5px}
.wrap td{white-space:normal;min-width:6em}
.wrap td:nth-child(3){min-width:12em}
.wrap td:nth-child(4),.wrap td:nth-child(8){min-width:16em}
.wrap td:nth-child(5){min-width:8em}
.wrap td:nth-child(7){min-width:11em}
.wrap td:first-child{min-width:6.5em;overflow-wrap:anywhere}
.scroll td:first-child,.scroll th:first-child{position:sticky;left:0;background:var(--bg)}
.bar{display:flex;flex-wrap:wrap;align-items:center;gap:8px 14px;margin:8px 0 0;font-size:13.5px;color:var(--muted)}
button,select{font:inherit;font-size:13px;color:var(--ink);background:var(--bg);border:1px solid var(--line);border-radius:5px;padding:2px 9px;max-width:100%}
button{cursor:pointer}
button:hover{border-color:var(--muted)}
:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
.figs{display:flex;flex-wrap:wrap;gap:26px 40px;margin:18px 0 0}
figure{margin:0;width:440px;max-width:100%}
figure.wide{width:100%}
figcaption{font-size:14px;line-height:1.45;margin-bottom:8px}
figcaption b{font-weight:650}
figcaption span{color:var(--muted)}
svg{display:block;max-width:100%;height:auto}
.panels{display:flex;flex-wrap:wrap;gap:18px 24px;overflow-x:auto}
.panels>svg{flex:none;min-width:min(var(--least,0px),100%)}
.keys{margin-bottom:6px}
.numbers[open]{flex-basis:100%;min-width:0}
.bar details{margin:0}
details{margin:8px 0 0}
summary{cursor:pointer;font-size:13.5px;color:var(--muted)}
summary:hover{color:var(--ink)}
details.run{border-top:1px solid var(--line);margin:0;padding:9px 0}
details.run:first-of-type{margin-top:14px}
details.run>summary{font-size:15px;color:var(--ink)}
details.run>summary span{color:var(--muted);font-size:13.5px;margin-left:8px}
details.run[open]{padding-bottom:22px}
.tools{display:flex;flex-wrap:wrap;gap:10px 22px;align-items:center;font-size:14px;padding:12px 0;position:sticky;top:0;background:var(--bg);z-index:1;border-bottom:1px solid var(--line)}
.tools label{display:flex;align-items:center;gap:7px;color:var(--muted)}
.tools input{width:150px;accent-color:var(--accent)}
.tools output{color:var(--ink);font-variant-numeric:tabular-nums;min-width:2.4em}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(var(--card),1fr));gap:26px 28px;margin:16px 0 0}
.card{min-width:0;break-inside:avoid}
.card header{display:flex;justify-content:space-between;gap:10px;font-size:13px;color:var(--muted);border-bottom:1px solid var(--line);padding-bottom:3px;margin-bottom:7px}
.card header b{color:var(--ink);font-weight:650}
.strip{display:grid;gap:6px}
.strip canvas{width:100%;display:block;margin-bottom:3px;border-radius:3px;aspect-ratio:1}
.strip div{font-size:12px;line-height:1.4;min-width:0;overflow:hidden;text-overflow:ellipsis;white-space:nowrap;color:var(--muted)}
.strip b{color:var(--ink);font-weight:600}
.strip .no{color:#c4501b}
@media(prefers-color-scheme:dark){.strip .no{color:#f08a54}}
.key{display:inline-block;width:14px;height:3px;vertical-align:middle;margin:0 5px 2px 0;border-radius:1px}
@media(max-width:560px){.says{grid-template-columns:1fr;gap:0}.says dt{font-size:13.5px}.says dd{margin-bottom:8px}main{padding:22px 16px 60px}h1{font-size:25px}.wrap thead{display:none}.wrap tr{display:block;padding:9px 0;border-top:1px solid var(--line)}.wrap td:nth-child(n){display:block;min-width:0;padding:1px 0}.panels{gap:16px}.panels.small>svg{width:calc(50% - 8px)}.panels>svg{min-width:var(--least,0)}.panels[style]>svg{max-width:none}.tools{position:static}}
@media print{:root{--bg:#fff;--ink:#000;--muted:#444;--line:#bbb;--soft:#f5f5f5}body{font-size:11pt}main{max-width:none;padding:0}nav,button,.tools,summary{display:none}
details.run>summary{display:block}.scroll{overflow:visible}section,figure,.warn{break-inside:avoid-page}table{font-size:8.5pt}}
)css";

// Copying a figure's or table's numbers as CSV, showing them as a table, saving a figure as SVG or PNG, sorting a table by a column, and the attention
// gallery, whose masks and IoU follow the threshold. The gallery computes as bench/kd_bench_eval.cpp does: bilinear with half-pixel centres, per-image min-max, mask = map > threshold.
inline constexpr char kReportScript[] = R"js(
'use strict';
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const make = (tag, parent, text, className) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  parent.append(element);
  return element;
};

// ---- copying

async function copy(text) {
  try { await navigator.clipboard.writeText(text); return true; } catch { /* some browsers refuse for files; the old way below */ }
  const area = make('textarea', document.body);
  area.value = text;
  area.select();
  const done = document.execCommand('copy');
  area.remove();
  return done;
}
for (const button of all('button[data-copy]')) {
  const label = button.textContent;
  button.hidden = false;
  button.onclick = async () => {
    button.textContent = await copy(document.getElementById(button.dataset.copy).textContent) ? 'Copied' : 'Not allowed here';
    setTimeout(() => button.textContent = label, 1500);
  };
}

// ---- numbers below a figure: kept as CSV, shown as a table

function csvRecords(text) {
  const records = [['']];
  let quoted = false;
  for (let i = 0; i < text.length; ++i) {
    const record = records[records.length - 1], last = record.length - 1, c = text[i];
    if (quoted) {
      if (c !== '"') record[last] += c;
      else if (text[i + 1] === '"') record[last] += text[++i];
      else quoted = false;
    }
    else if (c === '"') quoted = true;
    else if (c === ',') record.push('');
    else if (c === '\n') records.push(['']);
    else if (c !== '\r') record[last] += c;
  }
  return records.slice(0, -1);
}
for (const details of all('details.numbers')) {
  details.ontoggle = () => {
    const pre = details.querySelector('pre');
    if (pre.hidden) return;
    const table = make('table', make('div', details, undefined, 'scroll'));
    csvRecords(pre.textContent).forEach((record, k) => {
      const row = make('tr', k ? table.tBodies[0] ?? make('tbody', table) : make('thead', table));
      for (const cell of record) {
        const number = cell !== '' && isFinite(cell);
        make(k ? 'td' : 'th', row, number ? String(+Number(cell).toPrecision(5)) : cell, number ? 'r' : '');
      }
    });
    pre.hidden = true;
  };
}

// ---- saving a figure: its drawings side by side on white, in the order and with the gaps of svg.cpp's composed()

function standalone(figure) {
  const drawings = all('.panels > svg', figure), legend = figure.querySelector('.keys > svg');
  const size = (drawing, which) => Number(drawing.getAttribute(which));
  const columns = Math.max(1, Math.min(Number(figure.dataset.columns), drawings.length));
  const edge = 12, gap = 16, cell = Math.max(...drawings.map(d => size(d, 'width')));
  const root = drawings[0].cloneNode(false);
  let width = cell * columns + gap * (columns - 1), bottom = edge;
  const place = (drawing, x, y) => {
    const group = document.createElementNS(root.namespaceURI, 'g');
    group.setAttribute('transform', `translate(${x} ${y})`);
    group.append(...[...drawing.childNodes].map(node => node.cloneNode(true)));
    root.append(group);
  };
  if (legend) {
    place(legend, edge, bottom);
    bottom += size(legend, 'height') + gap / 2;
    width = Math.max(width, size(legend, 'width'));
  }
  for (let row = 0; row < drawings.length; row += columns) {
    const those = drawings.slice(row, row + columns);
    those.forEach((drawing, k) => place(drawing, edge + (cell + gap) * k, bottom));
    bottom += Math.max(...those.map(d => size(d, 'height'))) + (row + columns < drawings.length ? gap : 0);
  }
  width += 2 * edge;
  const height = bottom + edge, ground = document.createElementNS(root.namespaceURI, 'rect');
  for (const [key, value] of Object.entries({width: '100%', height: '100%', fill: '#ffffff'})) ground.setAttribute(key, value);
  root.prepend(ground);
  const name = figure.querySelector('figcaption b').textContent, font = "Helvetica,Arial,'DejaVu Sans',sans-serif";
  for (const [key, value] of Object.entries({width, height, viewBox: `0 0 ${width} ${height}`, 'aria-label': name, 'font-family': font})) root.setAttribute(key, value);
  for (const element of [root, ...all('[fill=currentColor],[stroke=currentColor]', root)])
    for (const key of ['fill', 'stroke']) if (element.getAttribute(key) === 'currentColor') element.setAttribute(key, '#1c2126');
  return {width, height, text: new XMLSerializer().serializeToString(root)};
}
function save(name, blob) {
  const link = make('a', document.body);
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
for (const button of all('button[data-save]')) {
  const figure = button.closest('figure');
  button.hidden = false;
  button.onclick = () => {
    const {width, height, text} = standalone(figure);
    if (button.dataset.save === 'svg') { save(figure.dataset.name + '.svg', new Blob([text], {type: 'image/svg+xml'})); return; }
    const picture = new Image();
    picture.onload = () => {
      const canvas = document.createElement('canvas');
      canvas.width = Math.ceil(2 * width);
      canvas.height = Math.ceil(2 * height);
      canvas.getContext('2d').drawImage(picture, 0, 0, canvas.width, canvas.height);
      canvas.toBlob(blob => save(figure.dataset.name + '.png', blob), 'image/png');
    };
    picture.src = 'data:image/svg+xml;charset=utf-8,' + encodeURIComponent(text);
  };
}

// ---- sorting: within each group of rows; what is no number goes last

for (const table of all('table.sort')) {
  const heads = all('th', table);
  heads.forEach((head, column) => {
    const sort = () => {
      const up = head.getAttribute('aria-sort') === 'descending';
      heads.forEach(h => h.removeAttribute('aria-sort'));
      head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
      const key = row => {
        const text = row.cells[column].textContent, number = parseFloat(text.replace('−', '-'));
        return head.className === 'r' ? (isNaN(number) ? (up ? Infinity : -Infinity) : number) : text;
      };
      for (const body of table.tBodies) {
        const order = (a, b) => { const x = key(a), y = key(b); return (x < y ? -1 : x > y ? 1 : 0) * (up ? 1 : -1); };
        body.append(...[...body.rows].sort(order));
      }
    };
    head.tabIndex = 0;
    head.onclick = sort;
    head.onkeydown = event => { if (event.key === 'Enter') sort(); };
  });
}

// ---- attention gallery

const galleryElement = document.getElementById('gallery-data');
if (galleryElement) gallery(JSON.parse(galleryElement.textContent));

function gallery(data) {
  const root = document.getElementById('gallery'), control = id => document.getElementById('gallery-' + id);
  const roles = {S: '#FF8A3C', T1: '#45AEFF', T2: '#2BE0A3', T3: '#C5E8FF'};  // the report's colours, lightened for dark pictures
  const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
  const number = value => isFinite(value) ? value.toFixed(2).replace(/^0/, '') : '–';

  const unpacked = (() => {  // the place of a map -> its values
    const known = new Map();
    return place => {
      if (!known.has(place)) {
        const packed = bytes(data.maps[place]);
        known.set(place, Float64Array.from({length: packed.length / 2}, (_, i) => packed[2 * i] + 256 * packed[2 * i + 1]));
      }
      return known.get(place);
    };
  })();

  // Source cells and weights of each of px target pixels.
  const axes = new Map();
  function axis(side, px) {
    const key = side + '/' + px;
    if (!axes.has(key)) axes.set(key, Array.from({length: px}, (_, i) => {
      const at = Math.max(0, (i + 0.5) * side / px - 0.5), low = Math.min(Math.floor(at), side - 1);
      return [low, Math.min(low + 1, side - 1), at - low];
    }));
    return axes.get(key);
  }
  // The map at px x px, scaled to [0,1].
  function unitMap(map, side, px) {
    const along = axis(side, px), out = new Float64Array(px * px);
    let min = Infinity, max = -Infinity;
    for (let y = 0, i = 0; y < px; ++y) {
      const [y0, y1, wy] = along[y];
      for (let x = 0; x < px; ++x, ++i) {
        const [x0, x1, wx] = along[x];
        const top = map[y0 * side + x0] * (1 - wx) + map[y0 * side + x1] * wx, bottom = map[y1 * side + x0] * (1 - wx) + map[y1 * side + x1] * wx;
        const value = out[i] = top * (1 - wy) + bottom * wy;
        if (value < min) min = value;
        if (value > max) max = value;
      }
    }
    const range = max - min + 1e-8;
    for (let i = 0; i < out.length; ++i) out[i] = (out[i] - min) / range;
    return out;
  }
  function iou(a, b) {
    let both = 0, any = 0;
    for (let i = 0; i < a.length; ++i) { both += a[i] & b[i]; any += a[i] | b[i]; }
    return any ? both / any : NaN;
  }
  const mean = values => { const known = values.filter(isFinite); return known.length ? known.reduce((a, b) => a + b) / known.length : NaN; };

  // Dark violet over orange to pale yellow: even steps of lightness, so it survives a grey print.
  const stops = [[13, 8, 60], [88, 16, 110], [160, 42, 99], [220, 83, 58], [248, 150, 30], [252, 235, 150]];
  function heat(value) {
    const at = Math.min(Math.max(value, 0), 1) * (stops.length - 1), low = Math.min(Math.floor(at), stops.length - 2), w = at - low;
    return stops[low].map((c, k) => c * (1 - w) + stops[low + 1][k] * w);
  }
  function raster(width, fill) {
    const canvas = document.createElement('canvas');
    canvas.width = canvas.height = width;
    const context = canvas.getContext('2d'), image = context.createImageData(width, width);
    for (let i = 0; i < width * width; ++i) image.data.set(fill(i), 4 * i);
    context.putImageData(image, 0, 0);
    return canvas;
  }
  function outline(context, mask, px, scale, colour, width) {
    const inside = (x, y) => x >= 0 && y >= 0 && x < px && y < px && mask[y * px + x];
    const path = new Path2D();
    for (let y = 0; y < px; ++y) for (let x = 0; x < px; ++x) {
      if (!mask[y * px + x]) continue;
      if (!inside(x, y - 1)) { path.moveTo(x * scale, y * scale); path.lineTo((x + 1) * scale, y * scale); }
      if (!inside(x, y + 1)) { path.moveTo(x * scale, (y + 1) * scale); path.lineTo((x + 1) * scale, (y + 1) * scale); }
      if (!inside(x - 1, y)) { path.moveTo(x * scale, y * scale); path.lineTo(x * scale, (y + 1) * scale); }
      if (!inside(x + 1, y)) { path.moveTo((x + 1) * scale, y * scale); path.lineTo((x + 1) * scale, (y + 1) * scale); }
    }
    context.lineCap = 'square';
    for (const [stroke, extra] of [['rgba(0,0,0,.55)', 1.6], [colour, 0]]) {
      context.strokeStyle = stroke;
      context.lineWidth = width + extra;
      context.stroke(path);
    }
  }

  const side = 2 * Math.ceil(Math.min(2, window.devicePixelRatio || 1) * 64);
  let shown;  // {models, px, cards: [{item, picture, units, truth, canvases, lines, ious}]}

  function paint(context, card, name) {
    context.imageSmoothingEnabled = card.picture.width > 64;
    context.drawImage(card.picture, 0, 0, side, side);
    if (name) {
      if (control('layer').value === 'heat') {
        context.imageSmoothingEnabled = true;
        context.globalAlpha = 0.62;
        context.drawImage(card.heat[name], 0, 0, side, side);
        context.globalAlpha = 1;
      }
      outline(context, card.masks[name], shown.px, side / shown.px, roles[name] || '#F0A8CD', 3.2);
    }
    if (card.truth) outline(context, card.truth, shown.px, side / shown.px, '#fff', 1.8);
  }

  function update() {
    const threshold = Number(control('threshold').value), filter = control('filter').value, sums = {};
    control('value').textContent = threshold.toFixed(2);
    let count = 0;
    for (const card of shown.cards) {
      card.masks = {};
      for (const name of shown.models) card.masks[name] = card.units[name].map(v => v > threshold);
      card.overlap = shown.pairs.length ? iou(card.masks[shown.pairs[0][0]], card.masks[shown.pairs[0][1]]) : NaN;
    }
    const ranked = shown.cards.filter(card => isFinite(card.overlap)).sort((a, b) => a.overlap - b.overlap);
    const some = Math.min(8, Math.ceil(ranked.length / 3)), middle = Math.floor((ranked.length - some) / 2);
    const by = {low: ranked.slice(0, some), median: ranked.slice(middle, middle + some), high: ranked.slice(ranked.length - some).reverse()};
    (by[filter] ?? shown.cards).forEach(card => root.append(card.element));  // ordered by what was asked for
    for (const card of shown.cards) {
      const {models, label} = card.item, right = name => models[name].pred === label;
      const keep = filter === 'all' || by[filter]?.includes(card) || (filter === 'wrong' && !right('S')) ||
                   (filter === 'beats' && right('S') && shown.models.length > 1 && shown.models.every(name => name === 'S' || !right(name))) ||
                   (filter === 'differ' && shown.models.some(name => models[name].pred !== models.S.pred));
      card.element.hidden = !keep;
      if (!keep) continue;
      ++count;
      card.contexts.forEach((context, k) => paint(context, card, k ? shown.models[k - 1] : null));
      const note = (key, value) => { (sums[key] ??= []).push(value); return number(value); };
      shown.models.forEach((name, k) => {
        if (card.truth) card.truthLines[k].textContent = 'truth ' + note(name + '–truth', iou(card.masks[name], card.truth));
      });
      card.ious.textContent = shown.pairs.map(([a, b]) => `${a}–${b} ${note(a + '–' + b, iou(card.masks[a], card.masks[b]))}`).join('  ');
    }
    control('mean').textContent = count ? `Mean IoU over the ${count} images shown: ` + Object.entries(sums).map(([key, values]) => `${key} ${number(mean(values))}`).join(', ') + '.'
                                        : 'No image fits this choice.';
  }

  function open(index) {
    const chosen = data.galleries[index], px = chosen.px;
    const models = chosen.models, names = chosen.class_names, cards = [];
    const pairs = models.flatMap((a, i) => models.slice(i + 1).map(b => [a, b]));
    root.replaceChildren();
    root.style.setProperty('--card', models.length > 1 ? Math.min(330, 96 * (models.length + 1)) + 'px' : '210px');
    shown = {models, px, pairs, cards};
    for (const packed of chosen.items) {
      const unpack = ([name, [pred, conf, side, map]]) => [name, {pred, conf: conf ?? NaN, side, map}];
      const item = {...packed, models: Object.fromEntries(Object.entries(packed.models).map(unpack))};
      const element = make('article', root, undefined, 'card'), header = make('header', element);
      const label = names[item.label] ?? 'class ' + item.label, title = make('span', header);
      make('b', title, label);
      title.append(' #' + item.index);
      const ious = make('span', header);
      const strip = make('div', element, undefined, 'strip');
      strip.style.gridTemplateColumns = `repeat(${models.length + 1}, 1fr)`;
      const pixels = bytes(data.pictures[item.picture]), width = Math.round(Math.sqrt(pixels.length / 3));
      const card = {item, element, ious, contexts: [], truthLines: [], units: {}, heat: {}, masks: {}};
      card.picture = raster(width, i => [pixels[3 * i], pixels[3 * i + 1], pixels[3 * i + 2], 255]);
      if (item.truth !== undefined) {
        const bits = bytes(data.maps[item.truth]);
        card.truth = Uint8Array.from({length: px * px}, (_, i) => bits[i >> 3] >> (i & 7) & 1);
      }
      for (const name of [null, ...models]) {
        const cell = make('div', strip), canvas = make('canvas', cell);
        canvas.width = canvas.height = side;
        canvas.setAttribute('role', 'img');
        card.contexts.push(canvas.getContext('2d'));
        if (!name) { canvas.setAttribute('aria-label', 'image of class ' + label); make('div', cell, 'image'); continue; }
        const model = item.models[name], prediction = names[model.pred] ?? 'class ' + model.pred;
        canvas.setAttribute('aria-label', `attention of ${name}, which says ${prediction}`);
        const line = make('div', cell);
        line.title = prediction;
        make('b', line, name + ' ');
        make('span', line, prediction, model.pred === item.label ? '' : 'no');
        make('div', cell, 'sure ' + number(model.conf));
        card.truthLines.push(make('div', cell, ''));
        const unit = card.units[name] = unitMap(unpacked(model.map), model.side, px);
        card.heat[name] = raster(px, i => [...heat(unit[i]), 255]);
      }
      cards.push(card);
    }
    update();
  }
  let queued = false;
  const later = () => { if (!queued) { queued = true; requestAnimationFrame(() => { queued = false; update(); }); } };
  control('threshold').oninput = later;
  control('filter').onchange = control('layer').onchange = update;
  control('run').onchange = event => open(Number(event.target.value));
  control('tools').hidden = false;
  const first = Math.max(0, data.galleries.findIndex(one => one.models.length > 2));  // T1, T2 and the student: something to compare
  control('run').value = first;
  open(first);
}
)js";

}  // namespace kd
