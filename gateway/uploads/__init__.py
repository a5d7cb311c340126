"""Pictures that users bring: by signed address, by URL, or handed over by another slice.

POST /v1/uploads ──▶ pending ──PUT, complete──▶ ready
                        └──refused or expired──▶ failed
"""
