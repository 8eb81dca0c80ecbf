output "bucket_name" {
  description = "Name of the bucket, for STRONGROOM_OBJECT_BUCKET."
  value       = google_storage_bucket.artifacts.name
}

output "endpoint" {
  description = "Address that speaks S3's language, for STRONGROOM_OBJECT_ENDPOINT."
  value       = "https://storage.googleapis.com"
}
