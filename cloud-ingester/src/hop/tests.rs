pub(crate) mod kit;

mod flow; // what goes into bronze comes out of silver and gold

mod again; // ends midway, replays, refreshes

mod models; // windows of every kind, users' models, watermarks

mod put_off; // a model that upkeep waits for no more

mod faults; // whatever the storage answers and whoever dies

mod upkeep; // merges, vacuum and cut logs are no news to hops

mod replay; // refusals taken up again

mod devices; // the catalogue

mod messages;

mod shortcuts; // what makes hops cheaper changes nothing

mod splits; // however a stream is cut, the tables are the same

mod full; // a disk that is full while windows are put aside
