"""Style sheet and script of the HTML page."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --text: #1f2328; --soft: #59636e; --line: #d8dce2; --raised: #f5f7f9; --accent: #0b5cad;
  --heat: 232 112 32; --edge: rgb(31 35 40 / .22);
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #15181d; --text: #e6e8eb; --soft: #a3abb5; --line: #363c46; --raised: #1d2127; --accent: #7cb7f2;
    --heat: 196 78 12; --edge: rgb(230 232 235 / .22);
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem clamp(1rem, 4vw, 2.5rem) 4rem; max-width: 66rem;
  background: var(--page); color: var(--text); font: 16px/1.55 system-ui, sans-serif; -webkit-text-size-adjust: 100%;
}
h1 { font-size: clamp(1.35rem, 4.2vw, 1.9rem); line-height: 1.25; margin: .3rem 0 .8rem; text-wrap: balance; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .35rem; display: flex; flex-wrap: wrap; gap: 0 .9rem; align-items: baseline; }
h3 small { font-weight: 400; color: var(--soft); font-size: .9rem; font-variant-numeric: tabular-nums; }
p, ul, dl { max-width: 46rem; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
.wide { overflow-x: auto; margin: 0 0 .6rem; }
.wide:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .7rem; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--line); }
thead th { vertical-align: bottom; color: var(--soft); font-weight: 600; white-space: normal; }
thead small { display: block; font-weight: 400; }
.number { text-align: right; }
tbody th {
  font-weight: 600; position: sticky; left: 0; background: var(--page);
  white-space: normal; overflow-wrap: anywhere; min-width: 9rem;
}
.best > * { background: var(--raised); font-weight: 700; }
.best th::after { content: " best"; color: var(--accent); font-size: .78rem; }
figure { margin: 1.2rem 0; }
figure img {
  width: 100%; max-width: 46rem; height: auto; display: block; border: 1px solid var(--line); border-radius: 6px;
}
figcaption { margin-top: .4rem; max-width: 46rem; }
.pictures th, .pictures td { padding: .3rem .25rem; text-align: center; border: 0; vertical-align: top; }
.pictures tbody th { min-width: 0; }
.pictures .first { padding-left: 1.1rem; }
.pictures [scope=colgroup] { text-align: left; color: var(--text); overflow-wrap: anywhere; }
.pictures img { display: block; margin: 0 auto; image-rendering: pixelated; border-radius: 3px; }
.pictures small { display: block; color: var(--soft); font-size: .75rem; }
.tokens {
  margin: 0; padding: .8rem; max-width: none; border: 1px solid var(--line); border-radius: 6px;
  font: .875rem/1.75 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; tab-size: 4;
}
.t { background: rgb(var(--heat) / var(--cost)); box-shadow: inset 1px 0 var(--edge); padding-block: .12em; }
.t:hover, .m:hover, .t.on, .m.on { outline: 2px solid var(--accent); }
.m {
  display: inline-block; width: 5px; height: 1.3em; margin-inline: 1px; vertical-align: -.28em;
  background: rgb(var(--heat) / var(--cost)); border: 1px solid var(--edge); border-radius: 2px;
}
.s { background: radial-gradient(circle, var(--soft) 1px, transparent 1.5px); }
.tab { position: relative; }
.tab::after, .n::before { color: var(--soft); }
.tab::after { content: "\\2192"; position: absolute; inset-inline-start: 0; width: 100%; text-align: center; }
.n::before { content: "\\21b5"; }
.x { font-weight: 400; font-size: .72em; border: 1px dotted var(--soft); border-radius: 2px; padding-inline: 1px; }
.scale { display: flex; max-width: 26rem; margin: .6rem 0 .2rem; font-size: .8rem; font-variant-numeric: tabular-nums; }
.scale span { flex: 1; text-align: center; padding: .2rem 0; background: rgb(var(--heat) / var(--cost)); }
.readout {
  position: sticky; bottom: 0; margin: 1rem 0 0; padding: .5rem .8rem; background: var(--raised); max-width: none;
  border: 1px solid var(--line); border-radius: 6px; font-size: .9rem; min-height: 2.5rem; overflow-wrap: anywhere;
}
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.2rem; margin: .6rem 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
summary { cursor: pointer; color: var(--accent); }
@media (max-width: 34rem) { dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .5rem; } }
@media print { .readout { display: none; } .t, .m, .scale span { print-color-adjust: exact; } }
"""

# Tooltips need a mouse that rests; this shows the same words at once, and on touch.
SCRIPT = """
const readout = document.querySelector(".readout");
let shown = null;
function show(event) {
  const token = event.target.closest(".t, .m");
  if (!token || token === shown) return;
  if (shown) shown.classList.remove("on");
  shown = token;
  shown.classList.add("on");
  readout.textContent = shown.title;
}
if (readout) {
  readout.hidden = false;
  document.addEventListener("pointerover", show);
  document.addEventListener("click", show);
}
"""
