mod kit;

mod flow; // what goes into bronze comes out of silver and gold

mod again; // ends midway, replays, refreshes

mod replay; // refusals taken up again

mod devices; // the catalogue

mod messages;
mod splits; // however a stream is cut, the tables are the same
